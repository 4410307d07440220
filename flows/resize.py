"""Give a machine more, or less, of CPUs, memory and disk."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced
from tasks.resizing import resize_and_record
from vdc.claims.resize import claim_resize
from vdc.requests import ResizeRequest


@flow(name="resize", flow_run_name="resize {request.vm}", **flow_options())
def resize(request: ResizeRequest) -> str:
    """Reserve what is added, change what its guest lets us change while it runs, write down what it has.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it does not
    have all of it: what it has instead is written down.
    """
    asked = claimed(claim_resize, request)
    with fenced(asked.claim) as fence:
        telling.resize_plan(asked)
        resize_and_record(asked, fence)
    return asked.claim.operation_id
