"""Bring an image into a datastore."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced, read, recorded
from tasks.image_check import fetched, look_at_image, prepared
from tasks.images import remove_and_record, take_back, upload_image
from vdc.claims.images import ImageClaim, check_import, claim_import, record_imported
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import ImportImageRequest


@flow(name="import-image", flow_run_name="import {request.name} into {request.datastore}", **flow_options())
def import_image(request: ImportImageRequest) -> str:
    """Fetch it if it is elsewhere, inspect it, convert it if need be, upload it whole.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the upload
    failed: it was taken back, or (which the error says) reconcile does it.
    """
    target = read(check_import, request)
    with fetched(request) as file:
        facts = look_at_image(request, file)
        with prepared(file, facts, target.disk_format) as source:
            image = claimed(
                claim_import,
                request,
                size_mib=source.size_mib,
                virtual_size_mib=facts.virtual_size_mib,
                sha256=facts.sha256,
                stored_sha256=source.stored_sha256,
                iso=facts.iso,
            )
            _store(request, image, source.file)
    return image.claim.operation_id


def _store(request: ImportImageRequest, image: ImageClaim, file: Path) -> None:
    with fenced(image.claim) as fence:
        telling.import_plan(request, image)
        try:
            upload_image(image, file, fence)
        except Superseded:
            raise
        except VdcError as error:
            failure = f"Image {image.name} was not stored on host {image.target.host.name}: {error}"
            failure = take_back(partial(remove_and_record, image, fence), failure)
            telling.image_result("import-image", failure)
            raise OperationFailed(failure, image.claim.operation_id) from error
        recorded(record_imported, image)
    telling.image_result("import-image", f"Image {image.name} is ready.")
