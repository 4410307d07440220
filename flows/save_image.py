"""Make a new image, of a machine's disk or of another image."""

from __future__ import annotations

from functools import partial

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.batches import claimed, fenced, recorded
from tasks.images import take_back
from tasks.saving import drop_snapshot, remove_and_record, save_image
from vdc.claims.saving import SavingClaim, claim_clone, claim_save, record_saved
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import CloneImageRequest, SaveAsRequest


@flow(name="save-as", flow_run_name="save {request.vm} as {request.image}", **flow_options())
def save_as(request: SaveAsRequest) -> str:
    """Make an image of a machine's disk, as it is at one moment; the machine goes on as it is.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where there is no
    image: what there was of it was removed, or (which the error says) reconcile does it.
    """
    return _save("save-as", claimed(claim_save, request, abilities()))


@flow(name="clone-image", flow_run_name="clone {request.image} as {request.name}", **flow_options())
def clone_image(request: CloneImageRequest) -> str:
    """Make an image that has what another one has. Returns and raises as `save_as`."""
    return _save("clone-image", claimed(claim_clone, request))


def _save(flow_name: str, saving: SavingClaim) -> str:
    with fenced(saving.claim) as fence:
        try:
            seen = save_image(saving, fence)
            drop_snapshot(saving, fence)
        except Superseded:
            raise
        except VdcError as error:
            failure = f"There is no image {saving.made.name} of {saving.source_name}: {error}"
            failure = take_back(partial(remove_and_record, saving, fence), failure)
            telling.image_result(flow_name, failure)
            raise OperationFailed(failure, saving.claim.operation_id) from error
        recorded(record_saved, saving, seen)
    telling.image_result(flow_name, f"Image {saving.made.name} of {saving.source_name} is ready.")
    return saving.claim.operation_id
