"""Images in datastores."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from drivers import registry
from tasks import progress
from tasks.environment import environment
from tasks.retrying import retrying
from vdc.claims.images import ImageClaim
from vdc.operations import Fence


@task(name="upload-image", task_run_name="upload {image.image.image_id}", **retrying())
def upload_image(image: ImageClaim, source: Path, fence: Fence) -> None:
    """Copy a local file into the datastore, whole and checksummed, or not at all."""
    fence.check(image.claim)
    store = registry.datastore(image.target.datastore_uri, image.target.host, environment().access)
    store.ensure_image(image.image, source, lambda done, total: progress.report("uploading", done, total))


@task(name="remove-image", task_run_name="remove {image.image.image_id}", **retrying())
def remove_image(image: ImageClaim, fence: Fence) -> None:
    """Remove an image's file, and half-written forms of it."""
    fence.check(image.claim)
    store = registry.datastore(image.target.datastore_uri, image.target.host, environment().access)
    store.ensure_removed([image.image.file])
