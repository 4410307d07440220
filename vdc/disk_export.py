"""Which disks go along when a tenant leaves, and whether there is room for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import specs
from vdc.claims.deploy import host_ref
from vdc.claims.images import named
from vdc.errors import InvalidState, NoCapacity
from vdc.model import FileSource, HostRef
from vdc.schema import Datastore, Host, Image, Router, Tenant, Vm, Volume
from vdc.states import HOLDING, VmState

LEAVES = frozenset({VmState.STOPPED, VmState.TERMINATING})
"""States of a machine whose disks nobody writes to. One on its way out has lost some already."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where an export goes. `had_mib`: files of disks that are in it already."""

    directory: str
    free_mib: int
    had_mib: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LeavingDisk:
    """`machine` is empty for one that no machine has; `host` is one that reaches its bytes."""

    machine: str
    name: str
    host: HostRef
    datastore_uri: str
    source: FileSource

    @property
    def label(self) -> str:
        return f"{self.machine} {self.name}".strip()

    @property
    def file(self) -> str:
        """In the export; the same at every attempt."""
        return f"{self.source.file.rpartition('.')[0] or self.source.file}.qcow2"


def disks_of(session: Session, tenant: Tenant) -> tuple[LeavingDisk, ...]:
    """Those of its machines, routers and machines on their way out apart; kept ones, and persistent images.

    Raises InvalidState where a machine may write to one, or is in a cloud.
    """
    routers = select(Router.vm_id).where(Router.tenant_id == tenant.id)
    live = select(Vm).where(Vm.tenant_id == tenant.id, Vm.state.in_(HOLDING), Vm.id.not_in(routers))
    vms = session.scalars(live.order_by(Vm.name)).all()
    if clouded := [vm.name for vm in vms if vm.host_id is None]:
        raise InvalidState(
            f"The disks of {named('machine', clouded)} cannot be exported: not on a host here."
        )
    if busy := [vm.name for vm in vms if vm.state not in LEAVES]:
        raise InvalidState(
            f"The disks of {named('machine', busy)} cannot be exported while their guests may write to them: "
            "stop them first (vdc vm stop), or terminate what was never made."
        )
    found = []
    for vm in vms:
        if vm.state == VmState.TERMINATING:
            continue
        spec = specs.load(vm.spec)
        for disk in spec.disks:
            source = FileSource(disk.file, disk.format, disk.size_mib)
            found.append(LeavingDisk(vm.name, disk.name, spec.host, disk.datastore_uri, source))
    kept = select(Volume, Datastore.uri, Host).join(Datastore, Volume.datastore_id == Datastore.id)
    kept = kept.join(Host, Volume.host_id == Host.id)
    kept = kept.where(Volume.tenant_id == tenant.id, Volume.state == "kept").order_by(Volume.name)
    for volume, uri, host in session.execute(kept):
        source = FileSource(volume.file, volume.format, volume.size_mib)
        found.append(LeavingDisk("", volume.name, host_ref(host), uri, source))
    machines_have = {disk.source.file for disk in found}
    images = select(Image, Datastore.uri, Host).join(Datastore, Image.datastore_id == Datastore.id)
    images = images.join(Host, Image.host_id == Host.id).order_by(Image.name)
    images = images.where(Image.tenant_id == tenant.id, Image.persistent, Image.state == "ready")
    for image, uri, host in session.execute(images.where(Image.file.not_in(machines_have))):
        source = FileSource(image.file, image.format, image.virtual_size_mib)
        found.append(LeavingDisk("", image.name, host_ref(host), uri, source))
    return tuple(found)


def check_room(disks: Sequence[LeavingDisk], room: Room) -> None:
    """Raise NoCapacity where they would not fit, were all of them full."""
    had = [min(room.had_mib.get(disk.file, 0), disk.source.size_mib) for disk in disks]
    needed_mib = sum(disk.source.size_mib for disk in disks)
    # Each replaces what an earlier run has brought of it, but only once it is whole.
    if needed_mib - sum(had) + max(had, default=0) > room.free_mib:
        raise NoCapacity(
            f"{len(disks)} disks of {needed_mib} MiB in all may not fit where {room.directory} is: "
            f"{room.free_mib} MiB are free there. Make room, or give another directory."
        )
