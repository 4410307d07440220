"""Let one machine at a time write to an image, or nobody any more."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced
from tasks.images import switch_and_record
from vdc.claims.persistence import claim_switch
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import SwitchImageRequest


@flow(name="switch-image", flow_run_name="switch image {request.image}", **flow_options())
def switch_image(request: SwitchImageRequest) -> str:
    """Make an image persistent, or golden again: its file gets the other name, and no byte is copied.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it is not
    done yet: reconcile goes on.
    """
    asked = claimed(claim_switch, request)
    with fenced(asked.claim) as fence:
        try:
            switch_and_record(asked, fence)
        except Superseded:
            raise
        except VdcError as error:
            raise OperationFailed(
                f"Image {asked.made.name} is not {'' if asked.persistent else 'non'}persistent yet: {error} "
                "`vdc reconcile` goes on.",
                asked.claim.operation_id,
            ) from error
    telling.image_result("switch-image", f"Image {asked.made.name} is {asked.said}.")
    return asked.claim.operation_id
