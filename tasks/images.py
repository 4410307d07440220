"""Images in datastores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from prefect import task

from drivers import registry
from drivers.contract import Datastore
from tasks import progress
from tasks.batches import recorded
from tasks.environment import environment
from tasks.retrying import retrying
from vdc.claims.images import ImageClaim, ImageTarget, record_removed, record_unfinished
from vdc.claims.persistence import Switch, record_switched
from vdc.claims.persistence import record_unfinished as record_unswitched
from vdc.errors import HostUnreachable, Superseded, VdcError
from vdc.model import HostRef, ImageSeen
from vdc.operations import Claim, Fence


def store_of(target: ImageTarget, host: HostRef | None = None) -> Datastore:
    """The datastore, worked on from `host`; None: from the one by which the image came."""
    return registry.datastore(target.datastore_uri, host or target.host, environment().access)


@task(name="upload-image", task_run_name="upload {image.name}", **retrying())
def upload_image(image: ImageClaim, source: Path, fence: Fence) -> None:
    """Copy a local file into the datastore, whole and checksummed, or not at all."""
    fence.check(image.claim)
    store_of(image.target).ensure_image(
        image.image, source, lambda done, total: progress.report("uploading", done, total)
    )


@task(name="remove-image", task_run_name="remove {image.name}", **retrying())
def remove_image(image: ImageClaim, fence: Fence) -> None:
    """Remove an image's file, and half-written forms of it."""
    remove_file(image.target, image.image.file, image.claim, fence)


def remove_file(target: ImageTarget, file: str, claim: Claim, fence: Fence) -> None:
    """Remove a file of a datastore: by whichever host that has it answers.

    Where each host may have it for itself: on all of them. Raises HostUnreachable where that is not all done.
    """
    shared = registry.datastore_capabilities(target.datastore_uri).shared
    away: HostUnreachable | None = None
    for host in (target.host, *target.others):
        fence.check(claim)
        try:
            store_of(target, host).ensure_removed([file])
        except HostUnreachable as error:
            away = away or error
        else:
            if shared:
                return
    if away is not None:
        raise away


def remove_and_record(image: ImageClaim, fence: Fence, why: str = "") -> None:
    """Remove an image and forget it; `why` is the reason, where it should have been made.

    Raises what `remove_image` raises: that is written down too, and reconcile goes on.
    """
    try:
        remove_image(image, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unfinished, image, f"{why} {error}".strip())
        raise
    recorded(record_removed, image, why)


@task(name="switch-image", task_run_name="rename {asked.made.name}", **retrying())
def switch_image(asked: Switch, fence: Fence) -> ImageSeen | None:
    """Rename an image's file, by whichever host answers; what a golden one is then, is read."""
    away: HostUnreachable | None = None
    for host in (asked.made.target.host, *asked.made.target.others):
        store, file = store_of(asked.made.target, host), asked.made.image.file
        try:
            fence.check(asked.claim)
            store.ensure_renamed(asked.was, file, writable=asked.persistent)
            fence.check(asked.claim)
            return None if asked.persistent else store.read_image(asked.made.image)
        except HostUnreachable as error:
            away = away or error
    assert away is not None, "there is a host"
    raise away


def switch_and_record(asked: Switch, fence: Fence) -> None:
    """Rename an image's file, and write that down. Raises what `switch_image` raises: reconcile goes on."""
    try:
        seen = switch_image(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unswitched, asked, str(error))
        raise
    recorded(record_switched, asked, seen)


def take_back(removal: Callable[[str], None], failure: str) -> str:
    """Run `removal` of what could not be made, with the reason; returns the sentence to end with."""
    try:
        removal(failure)
    except Superseded:
        raise
    except VdcError as left:
        return f"{failure} What is left of it is removed by `vdc reconcile`: {left}"
    return failure
