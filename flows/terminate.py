"""Remove machines for good."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks.batches import claimed, conclude
from tasks.leaving import remove_machines
from vdc.claims.terminate import claim_terminate
from vdc.requests import TerminateRequest


@flow(name="terminate", flow_run_name="terminate {request.label}", **flow_options())
def terminate(request: TerminateRequest) -> str:
    """Mark each machine as leaving, remove it from its host, release what it held.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    could not be removed: it stays marked as leaving, and reconcile goes on.
    """
    batch = claimed(claim_terminate, request)
    remove_machines(batch)
    return conclude(batch)
