"""The claims of making images of machines' disks and of other images, and what is written when it is over.

The operation is on the source, so that nothing else is done to that meanwhile. Of a machine that runs a
snapshot is made first; its row (never `ready`) goes with the operation, or is left for reconcile.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Session

from vdc import model, operations, specs
from vdc.access import asking
from vdc.claims.deploy import check_usable
from vdc.claims.images import ImageClaim, claim_of, record_removed
from vdc.claims.persistent_disks import machine_with
from vdc.claims.terminate import find_vm
from vdc.errors import InvalidState, Unsupported
from vdc.model import Abilities, FileSource, ImageSeen, SnapshotSpec, VmSpec
from vdc.names import find, require_new
from vdc.operations import Claim, Opening
from vdc.requests import CloneImageRequest, SaveAsRequest
from vdc.schema import Datastore, Disk, Image, Operation, Snapshot, Tenant, Vm, new_id, utc_now
from vdc.states import VmState, check_allowed
from vdc.usage import Use, check_quota
from vdc.usage_events import record_image_use

SAVE, CLONE = "save-as", "clone"
"""Kinds of operations."""


@dataclass(frozen=True, slots=True)
class SavingClaim:
    """The right to make an image of `source`, which is `source_name` (`machine web`, `image tiny`).

    `vm` and `snapshot` are those of a machine that runs: the snapshot is made first and removed in the end.
    """

    made: ImageClaim
    source: FileSource
    source_name: str
    vm: VmSpec | None = None
    snapshot: SnapshotSpec | None = None

    @property
    def claim(self) -> Claim:
        return self.made.claim


def claim_save(
    session: Session,
    request: SaveAsRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> SavingClaim:
    """Open the operation on the machine and insert the image, its tenant's, as `saving`. Raises Refused."""
    if begun := operations.open_of_run(session, SAVE, flow_run_id):
        return adopt(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    image_id, runs = new_id(), vm.state == VmState.RUNNING
    spec = request.model_dump(mode="json") | {"image_id": image_id, "runs": runs}
    opening = Opening(SAVE, "vm", vm.id, vm.name, spec)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    check_allowed("save-as", vm.name, VmState(vm.state))
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only the disks of machines on hosts are saved.")
    require_new(session, Image, "Image", request.image)
    check_quota(session, session.get_one(Tenant, vm.tenant_id), Use(images=1), asking(session).user_id)
    disk = _first_disk(session, vm)
    datastore = session.get_one(Datastore, disk.datastore_id)
    if runs:
        _check_snapshot(vm, datastore, specs.load(vm.spec), abilities)
        # Named as the image is, by id: the next attempt has another one.
        session.add(Snapshot(id=image_id, vm_id=vm.id, label=f"save-{image_id}", kind="disk", ready=False))
    image = Image(
        id=image_id,
        name=request.image,
        tenant_id=vm.tenant_id,
        owner_id=asking(session).user_id or None,
        published=False,
        datastore_id=datastore.id,
        host_id=vm.host_id,
        state="saving",
        file=model.image_file(image_id, datastore.disk_format),
        format=datastore.disk_format,
        virtual_size_mib=disk.size_mib,
        size_mib=0,
        sha256="",
    )
    session.add(image)
    session.flush()
    return _saving(session, vm, image, claim, runs=runs)


def claim_clone(
    session: Session, request: CloneImageRequest, *, actor: str, flow_run_id: str | None = None
) -> SavingClaim:
    """Open the operation on the image and insert the new one as `saving`. Raises Refused."""
    if begun := operations.open_of_run(session, CLONE, flow_run_id):
        return adopt(session, begun)
    source = find(session, Image, "image", request.image)
    image_id = new_id()
    spec = request.model_dump(mode="json") | {"image_id": image_id}
    opening = Opening(CLONE, "image", source.id, source.name, spec)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    # Nobody makes an image that is everyone's, or another tenant's, but who works for the site.
    whose = request.tenant or asking(session).house
    tenant = find(session, Tenant, "tenant", whose) if whose else None
    check_usable(session, source, tenant)
    if source.persistent and (name := machine_with(session, source)):
        raise InvalidState(
            f"Image {source.name} is persistent, and machine {name} writes to it: `vdc vm save-as {name} "
            f"{request.name}` makes an image of its disk."
        )
    require_new(session, Image, "Image", request.name)
    if tenant:
        check_quota(session, tenant, Use(images=1), asking(session).user_id)
    image = Image(
        id=image_id,
        name=request.name,
        tenant_id=tenant.id if tenant else source.tenant_id,
        published=source.published and tenant is None,
        datastore_id=source.datastore_id,
        host_id=source.host_id,
        state="saving",
        file=model.image_file(image_id, "iso" if source.iso else source.format),
        format=source.format,
        iso=source.iso,
        virtual_size_mib=source.virtual_size_mib,
        size_mib=source.size_mib,
        sha256="",
    )
    session.add(image)
    session.flush()
    return _cloning(session, source, image, claim)


def adopt(session: Session, operation: Operation) -> SavingClaim:
    """Take over an open operation that makes an image of something."""
    claim = operations.take_over(session, operation)
    image = session.get_one(Image, operation.spec["image_id"])
    if operation.kind == CLONE:
        return _cloning(session, session.get_one(Image, operation.object_id), image, claim)
    vm = session.get_one(Vm, operation.object_id)
    return _saving(session, vm, image, claim, runs=operation.spec["runs"])


def _first_disk(session: Session, vm: Vm) -> Disk:
    return session.query(Disk).filter(Disk.vm_id == vm.id, Disk.index == 0).one()


def _check_snapshot(vm: Vm, datastore: Datastore, spec: VmSpec, abilities: Abilities) -> None:
    if spec.host.uri not in abilities.snapshotting or datastore.uri not in abilities.snapshot_disks:
        raise Unsupported(
            f"Machine {vm.name} runs, and its {datastore.disk_format} disk in datastore {datastore.name} "
            f"holds no snapshots: stop it first (`vdc vm stop {vm.name}`)."
        )


def _saving(session: Session, vm: Vm, image: Image, claim: Claim, *, runs: bool) -> SavingClaim:
    disk = _first_disk(session, vm)
    made = claim_of(session, image, claim, SAVE)
    source = FileSource(disk.file, disk.format, disk.size_mib, snapshot_id=image.id if runs else "")
    snapshot = SnapshotSpec(image.id, "disk") if runs else None
    return SavingClaim(made, source, f"machine {vm.name}", specs.load(vm.spec) if runs else None, snapshot)


def _cloning(session: Session, source: Image, image: Image, claim: Claim) -> SavingClaim:
    made = claim_of(session, image, claim, CLONE)
    file = FileSource(source.file, source.format, source.virtual_size_mib, whole=True)
    return SavingClaim(made, file, f"image {source.name}")


def record_saved(session: Session, done: SavingClaim, seen: ImageSeen) -> None:
    """The image is whole, and nothing of the snapshot is left.

    Raises Superseded, as the others here, where another process took the operation over.
    """
    size_mib = -(-seen.size_bytes // 2**20)
    told = {"image": done.made.name, "size_mib": size_mib, "sha256": seen.sha256}
    operations.close(session, done.claim, result=told)
    image = session.get_one(Image, done.made.image.image_id)
    image.state, image.size_mib, image.sha256 = "ready", size_mib, seen.sha256
    record_image_use(session, image, done.claim, "stored", utc_now())
    _forget_snapshot(session, done)


def record_not_saved(session: Session, done: SavingClaim, error: str) -> None:
    """Nothing is left of the image, nor of the snapshot."""
    record_removed(session, done.made, error)
    _forget_snapshot(session, done)


def _forget_snapshot(session: Session, done: SavingClaim) -> None:
    if done.snapshot:
        session.execute(delete(Snapshot).where(Snapshot.id == done.snapshot.snapshot_id))
