"""Putting rules into force: of machines that are asked for, and of those whose rules name a group."""

from __future__ import annotations

import logging

from tasks.batches import fenced, read, recorded
from tasks.fanout import Recorder, act_on_each
from tasks.machines import filter_vm
from vdc.access import SYSTEM
from vdc.claims.security import Filtering, claim_follow
from vdc.records import close_batch, record_filtered
from vdc.security_groups import name_peers

log = logging.getLogger(__name__)


def filter_machines(asked: Filtering) -> None:
    """On the machines that run; the batch stays open."""
    batch = asked.batch
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        recorder = Recorder(done=record_filtered, failed=record_filtered)
        given = {"running": asked.running}
        act_on_each("filtering", filter_vm, batch.machines, fence, recorder, given=given)


def follow_groups() -> None:
    """After machines, or their addresses, came or went: let rules of others that name their groups follow.

    Whoever asked need not be allowed to do anything to those others: it is the platform's doing. What could
    not be put into force reconcile goes on with.
    """
    # Most sites have no such rule: they are not made to wait for the right to write.
    asked = recorded(claim_follow, actor=SYSTEM.name) if read(name_peers) else None
    if asked is None:
        return
    filter_machines(asked)
    if error := recorded(close_batch, asked.batch.claim):
        log.warning("Rules that name a group: %s `vdc reconcile` goes on.", error)
