"""Removing the machines of a batch."""

from __future__ import annotations

from tasks import telling
from tasks.batches import fenced
from tasks.fanout import Recorder, act_on_each
from tasks.filtering import follow_groups
from tasks.machines import teardown_vm
from tasks.routers import routers_told
from vdc.claims.batch import Batch
from vdc.records import record_terminated


def remove_machines(batch: Batch) -> None:
    """Outcomes are recorded as they come; the batch stays open."""
    claims = (batch.claim, *(m.claim for m in batch.machines))
    with fenced(*claims) as fence, routers_told([m.spec for m in batch.machines]):
        telling.terminate_plan(batch)
        act_on_each(
            "terminating",
            teardown_vm,
            batch.machines,
            fence,
            Recorder(done=record_terminated, failed=record_terminated),
        )
    follow_groups()
