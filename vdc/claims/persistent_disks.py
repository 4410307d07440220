"""Machines whose disk is a persistent image: what is refused, and what is charged of the image meanwhile.

While a machine has it, the image is charged as that one's disk, and not as an image too.
"""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.errors import Conflict, Forbidden, Invalid, InvalidState
from vdc.operations import Claim
from vdc.requests import DeployRequest
from vdc.schema import Disk, Image, Operation, Snapshot, Tenant, Vm, utc_now
from vdc.usage_events import record_image_use


def check_deployable(session: Session, request: DeployRequest, image: Image, tenant: Tenant) -> None:
    """Raise Refused where the machines of a request cannot have a persistent image as their disk."""
    if not image.persistent:
        return
    if request.count > 1:
        raise Invalid(
            f"Image {image.name} is persistent: one machine at a time has it, and {request.count} are asked."
        )
    if tenant.id != image.tenant_id:
        raise Forbidden(f"Image {image.name} belongs to another tenant than {tenant.name}.")
    if request.burst != "never":
        raise Invalid(f"Image {image.name} is persistent, and is here: its machine cannot burst.")
    if request.disk_mib not in (None, image.virtual_size_mib):
        raise Invalid(
            f"A disk of {request.disk_mib} MiB is refused: image {image.name} is persistent, and is the disk "
            f"of {image.virtual_size_mib} MiB. `vdc vm resize` grows it."
        )
    if name := machine_with(session, image):
        raise InvalidState(f"Image {image.name} is persistent, and machine {name} has it.")
    check_idle(session, image)


def machine_with(session: Session, image: Image) -> str:
    """Name of the machine whose disk a persistent image is; empty: none."""
    query = select(Vm.name).join(Disk, Disk.vm_id == Vm.id).where(Disk.image_id == image.id)
    return session.scalars(query).first() or ""


def check_idle(session: Session, image: Image) -> None:
    """Raise Conflict where something is being done with the image, which must not be written to meanwhile."""
    busy = select(Operation.kind).where(Operation.open_key == f"image:{image.id}")
    if kind := session.scalars(busy).first():
        raise Conflict(f"Image {image.name} is busy: {kind}.")


def image_of(session: Session, vm_id: str) -> Image | None:
    """The persistent image that is a machine's disk."""
    query = select(Image).join(Disk, Disk.image_id == Image.id)
    return session.scalars(query.where(Disk.vm_id == vm_id, Disk.index == 0, Image.persistent)).first()


def check_left_clean(session: Session, vm: Vm) -> None:
    """Raise InvalidState where a machine would leave its snapshots in an image that stays."""
    image = image_of(session, vm.id)
    if image is None:
        return
    of_vm = select(Snapshot.label).where(Snapshot.vm_id == vm.id).order_by(Snapshot.label)
    if labels := session.scalars(of_vm).all():
        raise InvalidState(
            f"Machine {vm.name} has snapshots ({', '.join(labels)}) in its disk, the persistent image "
            f"{image.name}, which stays: delete them first."
        )


def record_taken(session: Session, image: Image, claim: Claim) -> None:
    """A machine has it now."""
    record_image_use(session, image, claim, "attached", utc_now())


def record_left(session: Session, image: Image, claim: Claim) -> None:
    """Its machine is gone: it is an image again, of the size that it has now."""
    record_image_use(session, image, claim, "stored", utc_now())


def record_size(session: Session, file: str, size_mib: int) -> None:
    """What a persistent image takes, measured when its machine goes."""
    image = session.scalars(select(Image).where(Image.file == file)).first()
    if image is not None:
        image.size_mib = size_mib


def record_grown(session: Session, vm_id: str, disk_mib: int) -> None:
    """Its machine's disk was grown."""
    image = image_of(session, vm_id)
    if image is not None:
        image.virtual_size_mib = disk_mib
