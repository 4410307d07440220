"""Making the machines of a batch, and taking back each one that fails."""

from __future__ import annotations

from tasks.batches import fenced
from tasks.fanout import Recorder, act_on_each
from tasks.filtering import follow_groups
from tasks.machines import provision_vm, teardown_vm
from tasks.routers import routers_told
from vdc.claims.batch import Batch
from vdc.records import record_failed, record_provisioned


def make_machines(batch: Batch, *, all_or_none: bool = False) -> None:
    """Outcomes are recorded as they come; the batch stays open."""
    claims = (batch.claim, *(m.claim for m in batch.machines))
    with fenced(*claims) as fence, routers_told([m.spec for m in batch.machines]):
        act_on_each(
            "deploying",
            provision_vm,
            batch.machines,
            fence,
            Recorder(done=record_provisioned, failed=record_failed),
            undo=teardown_vm,
            all_or_none=all_or_none,
        )
    follow_groups()
