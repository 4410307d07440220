"""The claims of plugging disks, drives and network cards into a machine, and of taking them out again.

A device's row comes with the claim, and so it is in the machine's spec: whatever is made or removed of the
machine meanwhile, that is too. `ready` says that it is in; one that is not, and has no operation open, is
taken out by reconcile. A disk that is attached is a volume: it goes with the machine, or is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import model, operations, specs
from vdc.access import usable_by, visible
from vdc.addresses import mac_of, parse_member
from vdc.claims.deploy import check_usable, lease, vnet_spec
from vdc.claims.terminate import find_vm
from vdc.errors import Conflict, Forbidden, Invalid, InvalidState, NoCapacity, NotFound, Unsupported
from vdc.model import ROOT, Abilities, CdromSpec, Device, DiskSpec, NicSpec, VmSpec
from vdc.names import check_name, find
from vdc.operations import Claim, Opening
from vdc.requests import AttachDiskRequest, AttachNicRequest, DetachDiskRequest, DetachNicRequest
from vdc.routers import check_no_router
from vdc.schema import (
    Cdrom,
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Nic,
    Operation,
    Snapshot,
    Tenant,
    Vm,
    Vnet,
    Volume,
    new_id,
)
from vdc.security_groups import check_filtering, groups_of, rules_of
from vdc.states import VmState, check_allowed
from vdc.storage import room_of
from vdc.usage import Use, check_quota, check_user_quota, check_vm_limits

ATTACH_DISK, DETACH_DISK = "attach-disk", "detach-disk"
ATTACH_NIC, DETACH_NIC = "attach-nic", "detach-nic"
KINDS = {
    ATTACH_DISK: "disk attach",
    DETACH_DISK: "disk detach",
    ATTACH_NIC: "nic attach",
    DETACH_NIC: "nic detach",
}
"""Kind of the operation -> its name in vdc.states, which is that of the command."""

MAX_DISK_MIB = 64 * 1024 * 1024

DeviceRow = Disk | Cdrom | Nic
TABLES: tuple[type[Any], ...] = (Disk, Cdrom, Nic)


@dataclass(frozen=True, slots=True)
class Plug:
    """The right to plug `device` into a machine, or to take it out; `spec` is that of the machine with it.

    `keep`: what is in its file stays when it is out. `quota_left`: a phrase a limit.
    """

    claim: Claim
    kind: str
    spec: VmSpec
    device: Device
    device_id: str
    keep: bool = True
    quota_left: tuple[str, ...] = ()

    @property
    def attaches(self) -> bool:
        return self.kind in (ATTACH_DISK, ATTACH_NIC)

    @property
    def name(self) -> str:
        """`disk data`, `drive with image debian`, `card 10.1.0.5 on blue`."""
        return named(self.device)


def named(device: Device) -> str:
    match device:
        case DiskSpec():
            return f"disk {device.name}"
        case CdromSpec():
            return f"drive with image {device.name}"
        case NicSpec():
            return f"card {device.address} on {device.vnet.name}"


def without(spec: VmSpec, device: Device) -> VmSpec:
    """The machine without that device."""
    match device:
        case DiskSpec():
            return replace(spec, disks=tuple(d for d in spec.disks if d.index != device.index))
        case CdromSpec():
            return replace(spec, cdroms=tuple(c for c in spec.cdroms if c.index != device.index))
        case NicSpec():
            return replace(spec, nics=tuple(n for n in spec.nics if n.index != device.index))


def _with(spec: VmSpec, device: Device) -> VmSpec:
    match device:
        case DiskSpec():
            return replace(spec, disks=(*spec.disks, device))
        case CdromSpec():
            return replace(spec, cdroms=(*spec.cdroms, device))
        case NicSpec():
            return replace(spec, nics=tuple(sorted((*spec.nics, device), key=lambda n: n.index)))


# -- claims ------------------------------------------------------------------------------------------------


def claim_attach_disk(
    session: Session,
    request: AttachDiskRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Plug:
    """Open the operation and reserve a new disk, take a kept one, or an ISO image. Raises Refused."""
    if begun := operations.open_of_run(session, ATTACH_DISK, flow_run_id):
        return adopt(session, begun)
    vm, claim, device_id = _open(session, ATTACH_DISK, request, actor, flow_run_id)
    if sum((request.size_mib is not None, bool(request.volume), bool(request.iso))) != 1:
        raise Invalid("Say which disk: one of a size (new), a volume (kept), or an ISO image.")
    if request.name and request.size_mib is None:
        raise Invalid("A name is for a new disk: a kept one has its name, and a drive that of its image.")
    keep, left = True, []
    if request.iso:
        device: Device = _insert_cdrom(session, vm, request.iso, device_id, abilities)
    elif request.volume:
        device = _take_volume(session, vm, request.volume, device_id, abilities)
    else:
        assert request.size_mib is not None, "one of three"
        left = _check_new(session, vm, request.size_mib)
        device, keep = _make_volume(session, vm, request.name, request.size_mib, device_id), False
    return _attaching(session, vm, claim, ATTACH_DISK, device, device_id, keep, left)


def claim_attach_nic(
    session: Session,
    request: AttachNicRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Plug:
    """Open the operation and lease the card's address. Raises Refused."""
    if begun := operations.open_of_run(session, ATTACH_NIC, flow_run_id):
        return adopt(session, begun)
    vm, claim, device_id = _open(session, ATTACH_NIC, request, actor, flow_run_id)
    vnet = find(session, Vnet, "virtual network", request.vnet)
    tenant = session.get_one(Tenant, vm.tenant_id)
    if not usable_by(session, vnet, vm.tenant_id):
        raise Forbidden(f"Network {vnet.name} belongs to another tenant than {tenant.name}.")
    _check_uplink(session, vm, vnet)
    if groups_of(session, vm.id):
        check_filtering([vnet], abilities, f"Machine {vm.name}")
    left = check_quota(session, tenant, Use(addresses=int(vnet.tenant_id is None)), vm.owner_id)
    index = _free_index(session, Nic, vm, model.MOST_NICS, "network cards")
    address = address_in(session, vnet, request.address)
    device = NicSpec(
        index,
        vnet_spec(vnet),
        model.nic_device(vm.id, index),
        mac_of(address, index),
        str(address),
        rules_of(session, vm.id),
    )
    row = Nic(
        id=device_id,
        vm_id=vm.id,
        vnet_id=vnet.id,
        index=index,
        address=device.address,
        mac=device.mac,
        device=device.device,
        ready=False,
    )
    session.add(row)
    return _attaching(session, vm, claim, ATTACH_NIC, device, device_id, True, left)


def claim_detach_disk(
    session: Session, request: DetachDiskRequest, *, actor: str, flow_run_id: str | None = None
) -> Plug:
    """Open the operation and mark the disk, or the drive, as leaving. Raises Refused."""
    if begun := operations.open_of_run(session, DETACH_DISK, flow_run_id):
        return adopt(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    spec = specs.load(vm.spec)
    if request.disk == ROOT:
        raise Invalid(f"Machine {vm.name} starts from disk {ROOT}: it cannot be detached.")
    others: list[DiskSpec | CdromSpec] = [*(d for d in spec.disks if d.name != ROOT), *spec.cdroms]
    device = next((d for d in others if d.name == request.disk), None)
    if device is None:
        known = ", ".join(d.name for d in others)
        raise NotFound(
            f"Machine {vm.name} has no disk {request.disk!r} that could be detached. "
            + (f"Known: {known}." if known else f"It has {ROOT} alone.")
        )
    row = _row_of(session, vm, device)
    vm, claim, _ = _open(session, DETACH_DISK, request, actor, flow_run_id, row.id)
    return _detaching(session, vm, claim, row, device, keep=request.keep)


def claim_detach_nic(
    session: Session, request: DetachNicRequest, *, actor: str, flow_run_id: str | None = None
) -> Plug:
    """Open the operation and mark the card as leaving. Raises Refused."""
    if begun := operations.open_of_run(session, DETACH_NIC, flow_run_id):
        return adopt(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    spec = specs.load(vm.spec)
    asked = request.nic.lower()
    found = [n for n in spec.nics if asked in (n.address, n.mac.lower(), n.vnet.name)]
    if len(found) != 1:
        known = ", ".join(f"{n.address} on {n.vnet.name}" for n in spec.nics) or "none"
        many = f"has {len(found)} cards" if found else "has no card"
        raise (Invalid if found else NotFound)(
            f"Machine {vm.name} {many} {request.nic!r}: name one by its address, its MAC, or the only one "
            f"on a network. It has {known}."
        )
    if found[0].routes or (spec.context.router and found[0].index == 0):
        check_no_router(session, vm, "unplugged")
    row = _row_of(session, vm, found[0])
    vm, claim, _ = _open(session, DETACH_NIC, request, actor, flow_run_id, row.id)
    return _detaching(session, vm, claim, row, found[0], keep=True)


def adopt(session: Session, operation: Operation) -> Plug:
    """Take over the open operation of a machine that gets a device, or loses one."""
    claim = operations.take_over(session, operation)
    vm = session.get_one(Vm, operation.object_id)
    return plug_of(session, vm, claim, operation.kind, operation.spec["device_id"])


def plug_of(session: Session, vm: Vm, claim: Claim, kind: str, device_id: str) -> Plug:
    """What is being done with a device whose row is there."""
    row = find_device(session, device_id)
    spec = specs.load(vm.spec)
    device = _device_of(spec, row)
    volume = _volume_of(session, row)
    return Plug(claim, kind, spec, device, device_id, volume.keep if volume else True)


def open_removal(session: Session, vm: Vm, row: DeviceRow, actor: str, flow_run_id: str | None) -> Plug:
    """Open an operation that takes out what is not known to be in, or out."""
    kind = DETACH_NIC if isinstance(row, Nic) else DETACH_DISK
    opening = Opening(kind, "vm", vm.id, vm.name, {"device_id": row.id})
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    return plug_of(session, vm, claim, kind, row.id)


def find_device(session: Session, device_id: str) -> DeviceRow:
    for table in TABLES:
        row: DeviceRow | None = session.get(table, device_id)
        if row is not None:
            return row
    raise NotFound(f"There is no device {device_id}.")


def unready(session: Session, vm_id: str) -> list[DeviceRow]:
    """The machine's devices that are on their way in or out, in a fixed order."""
    return [
        row
        for table in TABLES
        for row in session.scalars(
            select(table).where(table.vm_id == vm_id, table.ready.is_(False)).order_by(table.index)
        )
    ]


def check_ready(session: Session, vm: Vm) -> None:
    """Raise InvalidState where it is not known of a device whether the machine has it."""
    if unready(session, vm.id):
        raise InvalidState(
            f"A disk or network card of {vm.name} is half in and half out: `vdc reconcile` takes it out."
        )


# -- parts -------------------------------------------------------------------------------------------------


def _open(
    session: Session,
    kind: str,
    request: AttachDiskRequest | AttachNicRequest | DetachDiskRequest | DetachNicRequest,
    actor: str,
    flow_run_id: str | None,
    device_id: str = "",
) -> tuple[Vm, Claim, str]:
    vm = find_vm(session, request.vm, request.tenant)
    device_id = device_id or new_id()
    asked = request.model_dump(mode="json") | {"device_id": device_id}
    opening = Opening(kind, "vm", vm.id, vm.name, asked)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts get disks and cards.")
    check_allowed(KINDS[kind], vm.name, VmState(vm.state))
    tenant = session.get_one(Tenant, vm.tenant_id)
    if kind in (ATTACH_DISK, ATTACH_NIC) and tenant.state != "active":
        raise InvalidState(f"Tenant {tenant.name} is {tenant.state}: its machines get nothing new.")
    check_ready(session, vm)
    _check_snapshots(session, vm, kind)
    return vm, claim, device_id


def _check_snapshots(session: Session, vm: Vm, kind: str) -> None:
    """A snapshot is of all its disks; memory fits a machine with the same devices only."""
    rows = session.scalars(select(Snapshot).where(Snapshot.vm_id == vm.id).order_by(Snapshot.label)).all()
    of_disks = kind in (ATTACH_DISK, DETACH_DISK)
    if in_the_way := [row.label for row in rows if of_disks or row.kind == "memory"]:
        what = "snapshots" if of_disks else "snapshots with memory"
        raise InvalidState(
            f"Machine {vm.name} has {what} ({', '.join(in_the_way)}), which are of what it has now: "
            "delete them first."
        )


def _attaching(
    session: Session,
    vm: Vm,
    claim: Claim,
    kind: str,
    device: Device,
    device_id: str,
    keep: bool,
    quota_left: list[str],
) -> Plug:
    spec = _with(specs.load(vm.spec), device)
    vm.spec = specs.dump(spec)
    session.flush()
    return Plug(claim, kind, spec, device, device_id, keep, tuple(quota_left))


def _detaching(session: Session, vm: Vm, claim: Claim, row: DeviceRow, device: Device, *, keep: bool) -> Plug:
    row.ready = False
    if volume := _volume_of(session, row):
        volume.keep = keep
    kind = DETACH_NIC if isinstance(row, Nic) else DETACH_DISK
    kept = keep if volume else True
    return Plug(claim, kind, specs.load(vm.spec), device, row.id, kept)


def _volume_of(session: Session, row: DeviceRow) -> Volume | None:
    return session.get(Volume, row.volume_id) if isinstance(row, Disk) and row.volume_id else None


def _device_of(spec: VmSpec, row: DeviceRow) -> Device:
    devices: tuple[Device, ...] = (
        spec.disks if isinstance(row, Disk) else spec.cdroms if isinstance(row, Cdrom) else spec.nics
    )
    return next(device for device in devices if device.index == row.index)


def _row_of(session: Session, vm: Vm, device: Device) -> DeviceRow:
    tables: dict[type[Device], type[Any]] = {DiskSpec: Disk, CdromSpec: Cdrom, NicSpec: Nic}
    table = tables[type(device)]
    row: DeviceRow = session.scalars(
        select(table).where(table.vm_id == vm.id, table.index == device.index)
    ).one()
    return row


def _free_index(
    session: Session, table: type[Disk] | type[Cdrom] | type[Nic], vm: Vm, most: int, what: str
) -> int:
    taken = set(session.scalars(select(table.index).where(table.vm_id == vm.id)))
    free = next((n for n in range(most) if n not in taken), None)
    if free is None:
        raise NoCapacity(f"Machine {vm.name} has {most} {what}: it takes no more.")
    return free


# -- disks -------------------------------------------------------------------------------------------------


def _root(session: Session, vm: Vm) -> Disk:
    return session.scalars(select(Disk).where(Disk.vm_id == vm.id, Disk.index == 0)).one()


def _check_new(session: Session, vm: Vm, size_mib: int) -> list[str]:
    if not 1 <= size_mib <= MAX_DISK_MIB:
        raise Invalid(f"A disk of {size_mib} MiB is refused: 1 to {MAX_DISK_MIB} MiB.")
    tenant = session.get_one(Tenant, vm.tenant_id)
    _check_vm_limits(session, vm, tenant, size_mib)
    store = session.get_one(Datastore, _root(session, vm).datastore_id)
    host = session.get_one(Host, vm.host_id).name
    if full := room_of(session, store, host).refusal(1, size_mib):
        raise NoCapacity(f"Machine {vm.name} on host {host} gets no disk: datastore {store.name}: {full}.")
    return check_quota(session, tenant, Use(disk_mib=size_mib), vm.owner_id)


def _check_vm_limits(session: Session, vm: Vm, tenant: Tenant, more_mib: int) -> None:
    has_mib = session.scalar(select(func.sum(Disk.size_mib)).where(Disk.vm_id == vm.id)) or 0
    check_vm_limits(session, tenant, Use(disk_mib=int(has_mib) + more_mib), vm.owner_id)


def _make_volume(session: Session, vm: Vm, name: str, size_mib: int, device_id: str) -> DiskSpec:
    """A new one, where the machine's first disk is."""
    index = _free_index(session, Disk, vm, model.MOST_DISKS, "disks")
    name = name or _free_name(session, vm, index)
    check_name("Disk", name)
    _check_name_free(session, vm, name)
    datastore = session.get_one(Datastore, _root(session, vm).datastore_id)
    volume_id = new_id()
    assert vm.host_id is not None, "checked"
    volume = Volume(
        id=volume_id,
        name=name,
        live_name=f"{vm.tenant_id}/{name}",
        tenant_id=vm.tenant_id,
        owner_id=vm.owner_id,
        datastore_id=datastore.id,
        host_id=vm.host_id,
        state="attached",
        keep=False,
        file=model.volume_file(volume_id, datastore.disk_format),
        format=datastore.disk_format,
        size_mib=size_mib,
    )
    session.add(volume)
    return _insert_disk(session, vm, volume, datastore, index, device_id)


def _insert_disk(
    session: Session, vm: Vm, volume: Volume, datastore: Datastore, index: int, device_id: str
) -> DiskSpec:
    session.flush()
    session.add(
        Disk(
            id=device_id,
            vm_id=vm.id,
            index=index,
            datastore_id=datastore.id,
            file=volume.file,
            format=volume.format,
            size_mib=volume.size_mib,
            volume_id=volume.id,
            ready=False,
        )
    )
    return DiskSpec(index, datastore.uri, volume.file, volume.format, volume.size_mib, name=volume.name)


def _free_name(session: Session, vm: Vm, index: int) -> str:
    taken = set(session.scalars(select(Volume.live_name).where(Volume.tenant_id == vm.tenant_id)))
    base = vm.name[:50].rstrip("-")
    return next(
        name
        for n in range(index, index + len(taken) + 1)
        if f"{vm.tenant_id}/{(name := f'{base}-disk{n}')}" not in taken
    )


def _check_name_free(session: Session, vm: Vm, name: str) -> None:
    spec = specs.load(vm.spec)
    taken = session.scalars(select(Volume.id).where(Volume.live_name == f"{vm.tenant_id}/{name}")).first()
    if name == ROOT or name in {c.name for c in spec.cdroms}:
        raise Conflict(f"Machine {vm.name} has a disk {name!r} already: choose another name.")
    if taken:
        tenant = session.get_one(Tenant, vm.tenant_id)
        raise Conflict(
            f"Tenant {tenant.name} has a disk {name!r} already (`vdc disk list`): choose another name."
        )


def find_volume(session: Session, name: str, tenant_id: str) -> Volume:
    """The tenant's volume of that name. Raises NotFound; Forbidden where only another tenant has one."""
    seen = visible(session, Volume)
    query = select(Volume).where(Volume.live_name == f"{tenant_id}/{name}", seen)
    volume = session.scalars(query).first()
    if volume is not None:
        return volume
    tenant = session.get_one(Tenant, tenant_id)
    others = select(Volume.id).where(Volume.name == name, Volume.live_name.is_not(None), seen)
    if session.scalars(others).first():
        raise Forbidden(f"Disk {name!r} belongs to another tenant than {tenant.name}.")
    theirs = select(Volume.name).where(Volume.tenant_id == tenant_id, Volume.live_name.is_not(None), seen)
    known = session.scalars(theirs.order_by(Volume.name).limit(8)).all()
    raise NotFound(
        f"Tenant {tenant.name} has no disk {name!r} that was attached and kept. "
        + (f"Known: {', '.join(known)}." if known else "It has none.")
    )


def _take_volume(session: Session, vm: Vm, name: str, device_id: str, abilities: Abilities) -> DiskSpec:
    volume = find_volume(session, name, vm.tenant_id)
    if volume.state == "attached":
        query = select(Vm.name).join(Disk, Disk.vm_id == Vm.id).where(Disk.volume_id == volume.id)
        raise InvalidState(f"Disk {name} is attached to machine {session.scalars(query).one()}.")
    if volume.state != "kept":
        raise InvalidState(f"Disk {name} is {volume.state}: it cannot be attached.")
    busy = select(Operation.kind).where(Operation.open_key == f"disk:{volume.id}")
    if kind := session.scalars(busy).first():
        raise Conflict(f"Disk {name} is busy: {kind}.")
    datastore = session.get_one(Datastore, volume.datastore_id)
    _check_vm_limits(session, vm, session.get_one(Tenant, vm.tenant_id), volume.size_mib)
    if volume.owner_id != vm.owner_id:
        # Of the tenant it is already.
        check_user_quota(session, Use(disk_mib=volume.size_mib), vm.owner_id)
    what = f"Disk {name} is in datastore {datastore.name}"
    _check_reached(session, vm, datastore, volume.host_id, abilities, what)
    index = _free_index(session, Disk, vm, model.MOST_DISKS, "disks")
    assert vm.host_id is not None, "checked"
    volume.state, volume.keep, volume.host_id = "attached", True, vm.host_id
    return _insert_disk(session, vm, volume, datastore, index, device_id)


def _check_reached(
    session: Session, vm: Vm, datastore: Datastore, host_id: str, abilities: Abilities, what: str
) -> None:
    """Raise Unsupported where the machine's host does not see a file, which `host_id` sees."""
    assert vm.host_id is not None, "checked"
    host = specs.load(vm.spec).host.name
    if session.get(HostDatastore, (vm.host_id, datastore.id)) is None:
        raise Unsupported(f"{what}, which host {host} of {vm.name} does not mount.")
    if datastore.uri not in abilities.shared and host_id != vm.host_id:
        raise Unsupported(f"{what}, which each host has for itself: host {host} has not got it.")


def _insert_cdrom(session: Session, vm: Vm, name: str, device_id: str, abilities: Abilities) -> CdromSpec:
    image = find(session, Image, "image", name)
    check_usable(session, image, session.get_one(Tenant, vm.tenant_id))
    if not image.iso:
        raise Invalid(
            f"Image {name} is a disk, no ISO image: machines are made of it (`vdc template create`)."
        )
    spec = specs.load(vm.spec)
    if name in {d.name for d in spec.disks}:
        raise Conflict(f"Machine {vm.name} has a disk {name!r} already.")
    if name in {c.name for c in spec.cdroms}:
        raise InvalidState(f"Machine {vm.name} has image {name} in a drive already.")
    datastore = session.get_one(Datastore, image.datastore_id)
    what = f"Image {name} is in datastore {datastore.name}"
    _check_reached(session, vm, datastore, image.host_id, abilities, what)
    index = _free_index(session, Cdrom, vm, model.MOST_CDROMS, "drives with images")
    session.add(Cdrom(id=device_id, vm_id=vm.id, index=index, image_id=image.id, ready=False))
    return CdromSpec(index, datastore.uri, image.file, image.format, image.name)


# -- cards -------------------------------------------------------------------------------------------------


def _check_uplink(session: Session, vm: Vm, vnet: Vnet) -> None:
    host = session.get_one(Host, vm.host_id)
    if vnet.uri not in host.networks:
        raise Unsupported(f"Host {host.name} of {vm.name} has no uplink {vnet.uri}, which {vnet.name} needs.")


def address_in(session: Session, vnet: Vnet, asked: str) -> IPv4Address:
    """The address that is asked for, or (empty) the next free one. Raises Invalid, Conflict, NoCapacity."""
    if not asked:
        return lease(session, vnet, 1)[0]
    address = parse_member(asked, IPv4Network(vnet.cidr), "Address")
    first, last = IPv4Address(vnet.first_address), IPv4Address(vnet.last_address)
    if not first <= address <= last:
        raise Invalid(
            f"Address {address} is not one of those that network {vnet.name} hands out: {first} to {last}."
        )
    if str(address) == vnet.gateway:
        raise Invalid(f"Address {address} is the gateway of network {vnet.name}.")
    query = (
        select(Vm.name)
        .join(Nic, Nic.vm_id == Vm.id)
        .where(Nic.vnet_id == vnet.id, Nic.address == str(address))
    )
    if holder := session.scalars(query).first():
        raise Conflict(f"Address {address} of network {vnet.name} is that of machine {holder}.")
    return address
