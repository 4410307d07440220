"""Remove machines for good."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, conclude, fenced
from tasks.fanout import Recorder, act_on_each
from tasks.machines import teardown_vm
from vdc.claims.terminate import claim_terminate
from vdc.records import record_terminated
from vdc.requests import TerminateRequest


@flow(name="terminate", flow_run_name="terminate {request.label}", **flow_options())
def terminate(request: TerminateRequest) -> str:
    """Mark each machine as leaving, remove it from its host, release what it held.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    could not be removed: it stays marked as leaving, and reconcile goes on.
    """
    batch = claimed(claim_terminate, request)
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        telling.terminate_plan(batch)
        act_on_each(
            "terminating",
            teardown_vm,
            batch.machines,
            fence,
            Recorder(done=record_terminated, failed=record_terminated),
        )
    return conclude(batch)
