"""The claim of a live migration, and what is written when it is over.

A machine that migrates holds its place on both hosts (`vms.target_host_id`) until it is known where it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.deploy import host_ref
from vdc.claims.terminate import find_vm
from vdc.errors import Invalid, InvalidState, NoCapacity, Unsupported
from vdc.model import Abilities, HostRef, MigrationResult, VmSpec
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.placement import POLICIES, Shape, place
from vdc.requests import MigrateRequest
from vdc.schema import Datastore, Disk, Host, Operation, PlacementGroup, Snapshot, Vm, utc_now
from vdc.states import OPERATIONS, VmState, check_move
from vdc.usage import group_of, host_loads


@dataclass(frozen=True, slots=True)
class Move:
    """The right to bring a machine from `spec.host` to `target`. `said`: a line a host, why it was chosen."""

    claim: Claim
    spec: VmSpec
    target: HostRef
    said: tuple[str, ...] = ()


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
    opening = Opening("migrate", "vm", vm.id, vm.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts are migrated.")
    if vm.state not in OPERATIONS["migrate"]:
        raise InvalidState(
            f"Machine {vm.name} is {vm.state}: only a running machine is migrated"
            + ("; `vdc reconcile` finishes what was begun." if vm.state == VmState.MIGRATING else ".")
        )
    check_move(vm.name, VmState.RUNNING, VmState.MIGRATING)
    spec = specs.load(vm.spec)
    _check_abilities(session, vm, spec, abilities)
    target, said = _place(session, vm, spec, request.to, abilities)
    vm.state, vm.target_host_id = VmState.MIGRATING, target.id
    return Move(claim, spec, host_ref(target), said)


def adopt_move(session: Session, operation: Operation) -> Move:
    """Take over the open operation of a machine that migrates."""
    return move_of(
        session, session.get_one(Vm, operation.object_id), operations.take_over(session, operation)
    )


def move_of(session: Session, vm: Vm, claim: Claim) -> Move:
    """What is being done to a machine that migrates."""
    return Move(claim, specs.load(vm.spec), host_ref(session.get_one(Host, vm.target_host_id)))


def _check_abilities(session: Session, vm: Vm, spec: VmSpec, abilities: Abilities) -> None:
    if spec.host.uri not in abilities.migrating:
        raise Unsupported(f"The driver of host {spec.host.name} cannot migrate a running machine.")
    for datastore in datastores_of(session, vm):
        if datastore.uri not in abilities.shared:
            raise Unsupported(
                f"Machine {vm.name} has a disk in datastore {datastore.name}, which each host has for "
                "itself: only machines on shared datastores are migrated."
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


def _place(
    session: Session, vm: Vm, spec: VmSpec, to: str, abilities: Abilities
) -> tuple[Host, tuple[str, ...]]:
    hosts = {host.id: host for host in session.scalars(select(Host))}
    loads = host_loads(session)
    if to:
        wanted = find(session, Host, "host", to)
        if wanted.id == vm.host_id:
            raise Invalid(f"Machine {vm.name} runs on host {to} already.")
        loads = [load for load in loads if load.host_id == wanted.id]
    excluded = {host.id: reason for host in hosts.values() if (reason := _unfit(host, vm, spec, abilities))}
    datastore_id = session.scalars(select(Disk.datastore_id).where(Disk.vm_id == vm.id)).first()
    networks = frozenset(nic.vnet.uri for nic in spec.nics)
    # It may be about to get more: that too must be there.
    vcpu, memory_mib = max(vm.vcpu, vm.next_vcpu or 0), max(vm.memory_mib, vm.next_memory_mib or 0)
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


def _unfit(host: Host, vm: Vm, spec: VmSpec, abilities: Abilities) -> str:
    """Why a running machine cannot go to a host that could take a new one; empty where it can."""
    if host.id == vm.host_id:
        return "the machine is there"
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
    told: dict[str, object] = {"from": move.spec.host.name, "to": move.target.name}
    if result is not None:
        told |= {"total_s": result.total_s, "downtime_s": result.downtime_s}
        assert vm.target_host_id is not None, "a machine that migrates has a target"
        vm.host_id = vm.target_host_id
        vm.spec = specs.dump(replace(move.spec, host=move.target))
    operations.close(session, move.claim, error=error or None, result=told)
    check_move(vm.name, VmState(vm.state), VmState.RUNNING)
    vm.state, vm.target_host_id = VmState.RUNNING, None
    vm.observed_at = utc_now()


def record_unsettled(session: Session, move: Move, error: str) -> None:
    """It is not known where the machine is: it keeps its place on both hosts, for reconcile to go on."""
    operations.close(session, move.claim, error=error)


def migrating(session: Session, vm_ids: Sequence[str]) -> list[Vm]:
    """Those of the machines of which it is not known where they are, by name."""
    query = select(Vm).where(Vm.id.in_(vm_ids), Vm.state == VmState.MIGRATING).order_by(Vm.name)
    return list(session.scalars(query))
