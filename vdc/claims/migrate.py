"""The claim of a migration, live or cold, and what is written when it is over.

A machine that migrates holds its place on both hosts (`vms.target_host_id`) until it is known where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.attach import check_ready
from vdc.claims.deploy import host_ref
from vdc.claims.terminate import find_vm
from vdc.errors import Invalid, InvalidState, NoCapacity, Unsupported
from vdc.model import UNTUNED, Abilities, HostRef, MigrationResult, MigrationTuning, VmSpec
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.placement import POLICIES, Shape, place
from vdc.requests import MigrateRequest
from vdc.schema import (
    Cdrom,
    Datastore,
    Disk,
    Host,
    Image,
    Operation,
    PlacementGroup,
    Snapshot,
    Vm,
    Volume,
    utc_now,
)
from vdc.states import SETTLED, Desired, VmState, check_allowed, check_move
from vdc.usage import group_of, host_loads


@dataclass(frozen=True, slots=True)
class Move:
    """The right to bring a machine from `spec.host` to `target`. `said`: a line a host, why it was chosen.

    `cold`: it is stopped, so that only its description (and disks, where each host has its own) goes over.
    `restart`: it runs, and is to be stopped for that, and started again.
    """

    claim: Claim
    spec: VmSpec
    target: HostRef
    said: tuple[str, ...] = ()
    cold: bool = False
    tuning: MigrationTuning = UNTUNED
    restart: bool = False
    stop_timeout_s: float = 60.0


MAX_BANDWIDTH_MIB_S = 1_000_000
MAX_DOWNTIME_MS = 2_000_000
"""QEMU's own limit of `downtime-limit`."""


def claim_migrate(
    session: Session,
    request: MigrateRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Move:
    """Open the operation, choose the host and reserve the machine's place there. Raises Refused."""
    if begun := operations.open_of_run(session, "migrate", flow_run_id):
        return adopt_move(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    asked = request.model_dump(mode="json")
    move = claim_move(
        session,
        vm,
        request.to,
        abilities,
        asked,
        actor=actor,
        flow_run_id=flow_run_id,
        with_storage=request.with_storage,
        stop=request.cold,
    )
    _check_tuning(move, request.tuning)
    return _as_asked(move, request)


def _as_asked(move: Move, request: MigrateRequest) -> Move:
    return replace(move, tuning=request.tuning, stop_timeout_s=request.timeout_s)


def _check_tuning(move: Move, tuning: MigrationTuning) -> None:
    if move.cold and tuning != UNTUNED:
        raise Invalid(
            f"Machine {move.spec.name} is stopped{' for it' * move.restart}: bandwidth, standstill "
            "and auto-converge are for one that runs."
        )
    limits = (
        ("bandwidth", tuning.bandwidth_mib_s, MAX_BANDWIDTH_MIB_S, "MiB/s"),
        ("standstill", tuning.max_downtime_ms, MAX_DOWNTIME_MS, "ms"),
    )
    for what, value, most, unit in limits:
        if value is not None and not 1 <= value <= most:
            raise Invalid(f"A {what} of {value} {unit} is refused: 1 to {most} {unit}.")


def claim_move(
    session: Session,
    vm: Vm,
    to: str,
    abilities: Abilities,
    asked: dict[str, Any],
    *,
    actor: str,
    flow_run_id: str | None = None,
    parent_id: str | None = None,
    with_storage: bool = False,
    stop: bool = False,
) -> Move:
    """Open the operation on one machine and reserve its place on host `to`; empty: on the best one.

    `stop`: one that runs is stopped for it. Raises Refused; what was written by then must be rolled back.
    """
    opening = Opening("migrate", "vm", vm.id, vm.name, asked)
    (claim,) = operations.open_many(
        session, [opening], actor=actor, flow_run_id=flow_run_id, parent_id=parent_id
    )
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts are migrated.")
    state = VmState(vm.state)
    if state is VmState.MIGRATING:
        raise InvalidState(f"Machine {vm.name} is migrating: `vdc reconcile` finishes what was begun.")
    check_allowed("migrate", vm.name, state)
    check_move(vm.name, state, VmState.MIGRATING)
    check_ready(session, vm)
    restart = stop and state is VmState.RUNNING
    spec, cold = specs.load(vm.spec), restart or state is VmState.STOPPED
    _check_abilities(session, vm, spec, abilities, cold=cold, with_storage=with_storage)
    target, said = _place(session, vm, spec, to, abilities, cold=cold)
    vm.desired = Desired(state)  # what it is to be again when it has arrived
    vm.state, vm.target_host_id = VmState.MIGRATING, target.id
    return Move(claim, spec, host_ref(target), said, cold, restart=restart)


def adopt_move(session: Session, operation: Operation) -> Move:
    """Take over the open operation of a machine that migrates."""
    vm = session.get_one(Vm, operation.object_id)
    move = move_of(session, vm, operations.take_over(session, operation))
    # One of a drain was asked for nothing of its own.
    asked = MigrateRequest.model_validate(operation.spec) if operation.spec else None
    return _as_asked(move, asked) if asked else move


def move_of(session: Session, vm: Vm, claim: Claim) -> Move:
    """What is being done to a machine that migrates."""
    target = host_ref(session.get_one(Host, vm.target_host_id))
    # What was asked of it is in the operation that began it, also where this one is to end it.
    query = select(Operation.spec).where(Operation.object_id == vm.id, Operation.kind == "migrate")
    begun = session.scalars(query.order_by(Operation.started_at.desc()).limit(1)).first() or {}
    restart = bool(begun.get("cold")) and vm.desired == Desired.RUNNING
    cold = restart or vm.desired == Desired.STOPPED
    return Move(claim, specs.load(vm.spec), target, cold=cold, restart=restart)


def _check_abilities(
    session: Session, vm: Vm, spec: VmSpec, abilities: Abilities, *, cold: bool, with_storage: bool
) -> None:
    if not cold and spec.host.uri not in abilities.migrating:
        raise Unsupported(f"The driver of host {spec.host.name} cannot migrate a running machine.")
    for datastore in datastores_of(session, vm):
        if datastore.uri in abilities.shared or (with_storage and datastore.uri in abilities.movable):
            continue
        can = "" if datastore.uri in abilities.movable else "not "
        raise Unsupported(
            f"Machine {vm.name} has a disk in datastore {datastore.name}, which each host has for itself: "
            f"it can {can}be taken along{' (--with-storage)' * (not can)}."
        )
    for datastore in _of_drives(session, vm):
        if datastore.uri not in abilities.shared:
            raise Unsupported(
                f"Machine {vm.name} has an ISO image of datastore {datastore.name} in a drive, and each host "
                f"has that datastore for itself: take it out (`vdc vm disk detach`) before it is migrated."
            )
    labels = session.scalars(select(Snapshot.label).where(Snapshot.vm_id == vm.id).order_by(Snapshot.label))
    if snapshots := list(labels):
        raise Unsupported(
            f"Machine {vm.name} has snapshots ({', '.join(snapshots)}), which libvirt does not carry to "
            "another host: delete them first."
        )


def datastores_of(session: Session, vm: Vm) -> Sequence[Datastore]:
    """Those that a machine's disks are in, by name."""
    query = select(Datastore).join(Disk, Disk.datastore_id == Datastore.id).where(Disk.vm_id == vm.id)
    return session.scalars(query.order_by(Datastore.name)).all()


def _of_drives(session: Session, vm: Vm) -> Sequence[Datastore]:
    query = select(Datastore).join(Image, Image.datastore_id == Datastore.id)
    return session.scalars(query.join(Cdrom, Cdrom.image_id == Image.id).where(Cdrom.vm_id == vm.id)).all()


def _place(
    session: Session, vm: Vm, spec: VmSpec, to: str, abilities: Abilities, *, cold: bool
) -> tuple[Host, tuple[str, ...]]:
    hosts = {host.id: host for host in session.scalars(select(Host))}
    loads = host_loads(session)
    if to:
        wanted = find(session, Host, "host", to)
        if wanted.id == vm.host_id:
            raise Invalid(f"Machine {vm.name} is on host {to} already.")
        loads = [load for load in loads if load.host_id == wanted.id]
    unfit = {host.id: _unfit(host, vm, spec, abilities, cold=cold) for host in hosts.values()}
    excluded = {host_id: reason for host_id, reason in unfit.items() if reason}
    for datastore in (*datastores_of(session, vm), *_of_drives(session, vm)):
        for load in loads:
            if datastore.id not in load.datastore_ids:
                excluded.setdefault(load.host_id, f"it does not mount datastore {datastore.name}")
    for datastore in datastores_of(session, vm):
        disk_mib = sum(disk.size_mib for disk in spec.disks if disk.datastore_uri == datastore.uri)
        for load in loads:
            room = load.rooms.get(datastore.id)
            if room and (full := room.refusal(1, disk_mib)):
                excluded.setdefault(load.host_id, f"datastore {datastore.name} there: {full}")
    datastore_id = session.scalars(
        select(Disk.datastore_id).where(Disk.vm_id == vm.id).order_by(Disk.index)
    ).first()
    networks = frozenset(nic.vnet.uri for nic in spec.nics)
    # It may be about to get more: that too must be there.
    vcpu, memory_mib = max(vm.vcpu, vm.next_vcpu or 0), max(vm.memory_mib, vm.next_memory_mib or 0)
    # Its disks were looked at above, in all their datastores.
    shape = Shape(vcpu, memory_mib, datastore_id or "", networks)
    group = session.get(PlacementGroup, vm.group_id) if vm.group_id else None
    placement = place(
        1,
        shape,
        loads,
        POLICIES["spread"],
        group_of(session, group, without=vm.id) if group else None,
        excluded=excluded,
    )
    chosen = placement.host_ids[0]
    if chosen is None:
        who = f"host {to}" if to else "no other host"
        raise NoCapacity(
            f"Machine {vm.name} is not migrated: {who} can{'not' if to else ''} take it. "
            f"{'; '.join(placement.said)}."
        )
    return hosts[chosen], placement.said


def _unfit(host: Host, vm: Vm, spec: VmSpec, abilities: Abilities, *, cold: bool) -> str:
    """Why the machine cannot go to a host that could take a new one; empty where it can."""
    if host.id == vm.host_id:
        return "the machine is there"
    if cold:
        return "" if host.arch == spec.host.arch else f"another kind of processor ({host.arch})"
    if host.uri not in abilities.migrating:
        return "its driver cannot take a running machine"
    # A running machine keeps the processor it was started with.
    if (host.arch, host.domain_type) != (spec.host.arch, spec.host.domain_type):
        return (
            f"another kind of processor ({host.arch}, {host.domain_type}; "
            f"the machine has {spec.host.arch}, {spec.host.domain_type})"
        )
    return ""


def record_settled(session: Session, move: Move, result: MigrationResult | None, error: str = "") -> None:
    """Write down where the machine is: on its target, with the figures, or (no result) where it was.

    Raises Superseded where another process took the operation over; the session must be rolled back.
    """
    vm = session.get_one(Vm, move.spec.vm_id)
    told: dict[str, object] = {"from": move.spec.host.name, "to": move.target.name, "cold": move.cold}
    if move.restart:
        told["restarted"] = True
    if result is not None:
        told |= {"total_s": result.total_s, "downtime_s": result.downtime_s}
        assert vm.target_host_id is not None, "a machine that migrates has a target"
        vm.host_id = vm.target_host_id
        vm.spec = specs.dump(replace(move.spec, host=move.target))
        volumes = select(Disk.volume_id).where(Disk.vm_id == vm.id, Disk.volume_id.is_not(None))
        session.execute(update(Volume).where(Volume.id.in_(volumes)).values(host_id=vm.host_id))
    operations.close(session, move.claim, error=error or None, result=told)
    state = SETTLED[Desired(vm.desired)]
    check_move(vm.name, VmState(vm.state), state)
    vm.state, vm.target_host_id = state, None
    vm.observed_at = utc_now()


def record_unsettled(session: Session, move: Move, error: str) -> None:
    """It is not known where the machine is: it keeps its place on both hosts, for reconcile to go on."""
    operations.close(session, move.claim, error=error)


def migrating(session: Session, vm_ids: Sequence[str]) -> list[Vm]:
    """Those of the machines of which it is not known where they are, by name."""
    query = select(Vm).where(Vm.id.in_(vm_ids), Vm.state == VmState.MIGRATING).order_by(Vm.name)
    return list(session.scalars(query))
