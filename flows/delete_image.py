"""Remove an image that nothing uses any more."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced
from tasks.images import remove_and_record
from vdc.claims.images import claim_delete
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import DeleteImageRequest


@flow(name="delete-image", flow_run_name="delete image {request.image}", **flow_options())
def delete_image(request: DeleteImageRequest) -> str:
    """Remove the image from its datastore, and its row.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it may still
    be there: reconcile goes on.
    """
    image = claimed(claim_delete, request)
    with fenced(image.claim) as fence:
        try:
            remove_and_record(image, fence)
        except Superseded:
            raise
        except VdcError as error:
            raise OperationFailed(
                f"Image {image.name} may still be there: {error} `vdc reconcile` removes it.",
                image.claim.operation_id,
            ) from error
    telling.image_result("delete-image", f"Image {image.name} is gone.")
    return image.claim.operation_id
