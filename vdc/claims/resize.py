"""The claim of a change of size.

From the claim on the machine holds the larger of what it has and what it is to have (`next_vcpu`,
`next_memory_mib`, the row of its disk); its spec says what it has until that is written down. What its guest
cannot take while it runs stays in `next_*`, and is what it has from its next start on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.deploy import check_sizes
from vdc.claims.terminate import find_vm
from vdc.errors import Invalid, InvalidState, NoCapacity, Unsupported
from vdc.model import ShapeSeen, Size, VmSpec
from vdc.operations import Claim, Opening
from vdc.requests import ResizeRequest
from vdc.schema import Datastore, Disk, Image, Operation, Snapshot, Tenant, Vm
from vdc.states import VmState, check_allowed
from vdc.storage import room_of
from vdc.usage import Use, check_quota, check_vm_limits, host_loads

RESIZE = "resize"
"""Kind of the operation."""

NOW, LATER = "now", "at its next start"

WORDS = {"vcpu": "vCPU", "memory_mib": "memory MiB", "disk_mib": "disk MiB"}


@dataclass(frozen=True, slots=True)
class Resize:
    """The right to make a machine what it is to be; `spec` is what it has. `quota_left`: a phrase a limit."""

    claim: Claim
    spec: VmSpec
    wanted: Size
    quota_left: tuple[str, ...] = ()


def size_of(spec: VmSpec) -> Size:
    return Size(spec.vcpu, spec.memory_mib, spec.disks[0].size_mib)


def resized(spec: VmSpec, size: Size) -> VmSpec:
    """The machine with that size."""
    first, *others = spec.disks
    disks = (replace(first, size_mib=size.disk_mib), *others)
    return replace(spec, vcpu=size.vcpu, memory_mib=size.memory_mib, disks=disks)


def claim_resize(
    session: Session, request: ResizeRequest, *, actor: str, flow_run_id: str | None = None
) -> Resize:
    """Open the operation, check quota and host, and reserve what is added. Raises Refused."""
    if begun := operations.open_of_run(session, RESIZE, flow_run_id):
        return adopt_resize(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    opening = Opening(RESIZE, "vm", vm.id, vm.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts are resized.")
    check_allowed(RESIZE, vm.name, VmState(vm.state))
    if vm.resizing:
        raise InvalidState(
            f"An earlier change of the size of {vm.name} is not finished: `vdc reconcile` finishes it."
        )
    spec = specs.load(vm.spec)
    has, was_to_be = size_of(spec), _wanted(vm, _first_disk(session, vm))
    wanted = Size(
        was_to_be.vcpu if request.vcpu is None else request.vcpu,
        was_to_be.memory_mib if request.memory_mib is None else request.memory_mib,
        was_to_be.disk_mib if request.disk_mib is None else request.disk_mib,
    )
    _check_sizes(session, vm, has, was_to_be, wanted)
    _check_snapshots(session, vm, has, wanted)
    more = _more(has, was_to_be, wanted)
    tenant = session.get_one(Tenant, vm.tenant_id)
    check_vm_limits(session, tenant, Use(**asdict(wanted)), vm.owner_id)
    quota_left = check_quota(session, tenant, more, vm.owner_id)
    _check_capacity(session, vm, more)
    vm.next_vcpu = wanted.vcpu if wanted.vcpu != has.vcpu else None
    vm.next_memory_mib = wanted.memory_mib if wanted.memory_mib != has.memory_mib else None
    _first_disk(session, vm).size_mib = wanted.disk_mib
    vm.resizing = True
    return Resize(claim, spec, wanted, tuple(quota_left))


def adopt_resize(session: Session, operation: Operation) -> Resize:
    """Take over the open operation of a machine whose size is being changed."""
    claim = operations.take_over(session, operation)
    return resize_of(session, session.get_one(Vm, operation.object_id), claim)


def resize_of(session: Session, vm: Vm, claim: Claim) -> Resize:
    """What is being done to a machine whose size is being changed."""
    return Resize(claim, specs.load(vm.spec), _wanted(vm, _first_disk(session, vm)))


def changes(has: Size, wanted: Size, now: Size) -> list[dict[str, Any]]:
    """What differs from before, a row each: `what from to when`; `now` is what it has afterwards."""
    before, to, after = asdict(has), asdict(wanted), asdict(now)
    return [
        {
            "what": what,
            "from": before[what],
            "to": to[what],
            "when": NOW if to[what] == after[what] else LATER,
        }
        for what in before
        if to[what] != before[what]
    ]


def foresee(asked: Resize, seen: ShapeSeen) -> list[dict[str, Any]]:
    """As `changes`, with `why`: what may be told of it before it is tried."""
    wanted, rows = asked.wanted, changes(size_of(asked.spec), asked.wanted, asked.wanted)
    for row in rows:
        row["why"] = _why(row["what"], wanted, seen)
        if row["why"] and not row["why"].startswith("if"):
            row["when"] = LATER
    return rows


def _why(what: str, wanted: Size, seen: ShapeSeen) -> str:
    if not seen.running:
        return ""
    if what == "vcpu":
        if wanted.vcpu > seen.max_vcpu:
            return f"it was started with room for {seen.max_vcpu}"
        if wanted.vcpu < seen.min_vcpu:
            return f"it was started with {seen.min_vcpu}, which stay"
        return "if its guest lets go of them, else at its next start" if wanted.vcpu < seen.vcpu else ""
    if what == "memory_mib":
        if wanted.memory_mib > seen.max_memory_mib:
            return f"it was started with {seen.max_memory_mib} MiB"
        return "if its guest has a balloon driver, else at its next start"
    return "if its guest's agent does it, its root file system too, else at its next boot"


def _first_disk(session: Session, vm: Vm) -> Disk:
    return session.scalars(select(Disk).where(Disk.vm_id == vm.id).order_by(Disk.index).limit(1)).one()


def _wanted(vm: Vm, disk: Disk) -> Size:
    return Size(vm.next_vcpu or vm.vcpu, vm.next_memory_mib or vm.memory_mib, disk.size_mib)


def _check_sizes(session: Session, vm: Vm, has: Size, was_to_be: Size, wanted: Size) -> None:
    if wanted.disk_mib < has.disk_mib:
        raise Invalid(
            f"The disk of machine {vm.name} has {has.disk_mib} MiB and cannot have {wanted.disk_mib} MiB: "
            "a disk only grows."
        )
    image = session.get_one(Image, _first_disk(session, vm).image_id)
    check_sizes(wanted.vcpu, wanted.memory_mib, wanted.disk_mib, image)
    if wanted == was_to_be:
        later = f", or will at its next start{_of(wanted)}" if wanted != has else _of(wanted)
        raise Invalid(f"Machine {vm.name} has that size already{later}: nothing to change.")


def _of(size: Size) -> str:
    return f" ({size.vcpu} vCPU, {size.memory_mib} MiB memory, {size.disk_mib} MiB disk)"


def _check_snapshots(session: Session, vm: Vm, has: Size, wanted: Size) -> None:
    """Going back to one brings the disk's size back; memory fits a machine of the same size only."""
    rows = session.scalars(select(Snapshot).where(Snapshot.vm_id == vm.id).order_by(Snapshot.label)).all()
    grows = wanted.disk_mib != has.disk_mib
    in_the_way = [row.label for row in rows if grows or row.kind == "memory"]
    if in_the_way:
        what = "snapshots" if grows else "snapshots with memory"
        raise InvalidState(
            f"Machine {vm.name} has {what} ({', '.join(in_the_way)}), which are of its present size: "
            "delete them first."
        )


def _more(has: Size, was_to_be: Size, wanted: Size) -> Use:
    """What it takes beyond what it holds."""
    return Use(
        vcpu=max(0, wanted.vcpu - max(has.vcpu, was_to_be.vcpu)),
        memory_mib=max(0, wanted.memory_mib - max(has.memory_mib, was_to_be.memory_mib)),
        disk_mib=max(0, wanted.disk_mib - was_to_be.disk_mib),
    )


def _check_capacity(session: Session, vm: Vm, more: Use) -> None:
    host = next(load for load in host_loads(session) if load.host_id == vm.host_id)
    missing = []
    if more.vcpu > max(host.vcpu_free, 0):
        missing.append(f"vCPU ({host.vcpu_free:g} of {host.vcpu:g} free, {more.vcpu} more needed)")
    if more.memory_mib > max(host.memory_free_mib, 0):
        missing.append(
            f"memory ({host.memory_free_mib:g} of {host.memory_mib:g} MiB free, "
            f"{more.memory_mib} more needed)"
        )
    if more.disk_mib:
        store = session.get_one(Datastore, _first_disk(session, vm).datastore_id)
        if full := room_of(session, store, host.name).refusal(1, more.disk_mib):
            missing.append(f"room in datastore {store.name}: {full}")
    if missing:
        raise NoCapacity(
            f"Machine {vm.name} is not resized: host {host.name} has not got the "
            f"{' and the '.join(missing)}. `vdc vm migrate {vm.name}` takes it to another one."
        )
