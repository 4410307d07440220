"""Switch machines on, off, or over."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks.batches import claimed, conclude, fenced
from tasks.fanout import Recorder, act_on_each
from tasks.power import power_vm
from vdc.claims.power import claim_power
from vdc.records import record_changed, record_unchanged
from vdc.requests import PowerRequest


@flow(name="power", flow_run_name="{request.verb} {request.label}", **flow_options())
def power(request: PowerRequest) -> str:
    """Say what each machine is to be, make it so, write down what it became.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    could not be switched: it stays what it was, and reconcile adopts what it became nevertheless.
    """
    batch = claimed(claim_power, request)
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        act_on_each(
            request.verb,
            power_vm,
            batch.machines,
            fence,
            Recorder(done=record_changed, failed=record_unchanged),
            given={"request": request},
        )
    return conclude(batch)
