"""Remove snapshots that are older than they may become."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced, read
from tasks.environment import environment
from tasks.snapshots import sweep_one
from vdc.access import check
from vdc.claims.snapshot_sweep import Swept, claim_due, read_due
from vdc.errors import OperationFailed
from vdc.schema import utc_now


@flow(name="sweep-snapshots", flow_run_name="sweep snapshots", **flow_options())
def sweep_snapshots() -> list[Swept]:
    """Delete each snapshot whose time is over, one after the other, as `delete-snapshot` does.

    A machine that is busy, or in a state in which its snapshots cannot be deleted, is passed over and named:
    the next sweep tries again. Raises OperationFailed where one may still be there: reconcile goes on.
    """
    read(check, "site.sweep-snapshots")
    swept = []
    for due in read(read_due, environment().settings.snapshot_days, utc_now()):
        asked = claimed(claim_due, due)
        if asked is None:
            continue
        if isinstance(asked, str):
            swept.append(Swept(due.vm, due.tenant, due.label, "left", asked))
            continue
        with fenced(asked.claim) as fence:
            swept.append(sweep_one(asked, due, fence))
    telling.snapshots_swept(swept)
    if failed := [one for one in swept if one.outcome == "failed"]:
        raise OperationFailed(
            f"{len(failed)} of {len(swept)} snapshots may still be there, and `vdc reconcile` removes them. "
            f"{failed[0].vm}, {failed[0].label}: {failed[0].why}",
            "",
        )
    return swept
