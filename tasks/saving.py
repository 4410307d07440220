"""Making an image of a machine's disk, or of another image, where the bytes are."""

from __future__ import annotations

from prefect import task

from drivers import registry
from tasks.batches import recorded
from tasks.environment import environment
from tasks.images import remove_image, store_of
from tasks.machines import domain_spec
from tasks.retrying import retrying
from vdc.claims.images import record_unfinished
from vdc.claims.saving import SavingClaim, record_not_saved
from vdc.errors import Superseded, VdcError
from vdc.model import ImageSeen
from vdc.operations import Fence


@task(name="save-image", task_run_name="save {saving.made.name}", **retrying())
def save_image(saving: SavingClaim, fence: Fence) -> ImageSeen:
    """Make the image, of one moment of a machine that runs, and read what was stored."""
    if saving.vm and saving.snapshot:
        hypervisor = registry.hypervisor(saving.vm.host, environment().access)
        timeout_s = environment().settings.snapshot_timeout_s
        fence.check(saving.claim)
        hypervisor.ensure_snapshot(domain_spec(saving.vm), saving.snapshot, timeout_s=timeout_s)
    store = store_of(saving.made.target)
    fence.check(saving.claim)
    store.ensure_image_from(saving.made.image, saving.source)
    fence.check(saving.claim)
    return store.read_image(saving.made.image)


@task(name="drop-snapshot", task_run_name="drop snapshot for {saving.made.name}", **retrying())
def drop_snapshot(saving: SavingClaim, fence: Fence) -> None:
    """Remove the snapshot that the image was made of; of a machine that is off there is none."""
    if saving.vm and saving.snapshot:
        fence.check(saving.claim)
        hypervisor = registry.hypervisor(saving.vm.host, environment().access)
        hypervisor.ensure_snapshot_removed(domain_spec(saving.vm), saving.snapshot.snapshot_id)


def remove_and_record(saving: SavingClaim, fence: Fence, why: str) -> None:
    """Remove what there is of the image, and write down why it was not made.

    Raises what the removal raises: that is written down too, and reconcile goes on.
    """
    try:
        drop_snapshot(saving, fence)
        remove_image(saving.made, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unfinished, saving.made, f"{why} {error}")
        raise
    recorded(record_not_saved, saving, why)
