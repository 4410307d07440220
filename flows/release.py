"""Release machines that are on hold."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks.batches import claimed, conclude
from tasks.releasing import make_machines
from vdc.claims.hold import claim_release
from vdc.requests import MachinesRequest


@flow(name="release", flow_run_name="release {request.label}", **flow_options())
def release(request: MachinesRequest) -> str:
    """Make the machines that were deployed on hold; those that were stopped may be started again.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    failed: it is taken back, as in a deployment.
    """
    batch = claimed(claim_release, request).batch
    make_machines(batch)
    return conclude(batch)
