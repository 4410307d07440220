"""Bring an image file into a datastore."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced, read, recorded
from tasks.image_check import look_at_image, prepared
from tasks.images import remove_image, upload_image
from vdc.claims.images import check_import, claim_import, record_import_failed, record_imported
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import ImportImageRequest


@flow(name="import-image", flow_run_name="import {request.name} into {request.datastore}", **flow_options())
def import_image(request: ImportImageRequest) -> str:
    """Inspect the file, convert it if need be, upload it whole.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the upload
    failed and was taken back.
    """
    target = read(check_import, request)
    facts = look_at_image(request)
    with prepared(request, facts, target.disk_format) as source:
        image = claimed(
            claim_import,
            request,
            size_mib=source.size_mib,
            virtual_size_mib=facts.virtual_size_mib,
            sha256=facts.sha256,
            stored_sha256=source.stored_sha256,
        )
        with fenced(image.claim) as fence:
            telling.import_plan(request, image)
            try:
                upload_image(image, source.file, fence)
            except Superseded:
                raise
            except VdcError as error:
                remove_image(image, fence)
                recorded(record_import_failed, image.claim, image.image.image_id, str(error))
                telling.import_result(request, str(error))
                raise OperationFailed(
                    f"Image {request.name} was not stored on host {image.target.host.name}: {error}",
                    image.claim.operation_id,
                ) from error
    recorded(record_imported, image)
    telling.import_result(request)
    return image.claim.operation_id
