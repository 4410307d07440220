"""Machines on hold: nothing starts them until they are released, by a person or when their time comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.batch import Batch, Machine, adopt_batch
from vdc.claims.power import chosen, label_of
from vdc.errors import Invalid, Unsupported
from vdc.operations import Claim, Opening
from vdc.requests import MachinesRequest
from vdc.schema import Operation, Vm, new_id, utc_now
from vdc.states import Desired, VmState, check_allowed, check_move
from vdc.usage import check_running
from vdc.usage_events import vm_event, with_event


@dataclass(frozen=True, slots=True)
class Released:
    """Machines that are to be made now, and the names of those that are merely stopped from now on."""

    batch: Batch
    stopped: tuple[str, ...] = ()


def instant(text: str) -> datetime:
    """A time to come, as people write it: `2026-12-01T06:00Z`, or with an offset. Raises Invalid."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no time: write it as 2026-12-01T06:00Z.") from error
    if at.tzinfo is None:
        raise Invalid(f"{text} has no time zone: add Z for UTC, or an offset such as +01:00.")
    if at <= utc_now():
        raise Invalid(f"{text} is over already.")
    return at


def hold(session: Session, request: MachinesRequest, until: datetime | None, *, actor: str) -> dict[str, str]:
    """Put stopped machines on hold, or say anew until when; returns id -> name. Raises Refused."""
    vms = chosen(session, request.vms, request.tenant)
    for vm in vms:
        check_allowed("hold", vm.name, VmState(vm.state))
        if vm.host_id is None:
            raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts are held.")
        said = {"until": until.isoformat() if until else None}
        claim = operations.open_one(session, Opening("hold", "vm", vm.id, vm.name, said), actor=actor)
        if vm.state == VmState.STOPPED:
            session.add(vm_event(vm, claim, "held", utc_now(), specs.load(vm.spec).host.name))
        vm.state, vm.hold_until = VmState.HELD, until
        operations.close(session, claim)
    return {vm.id: vm.name for vm in vms}


def claim_release(
    session: Session, request: MachinesRequest, *, actor: str, flow_run_id: str | None = None
) -> Released:
    """Release machines: what was never made is to be deployed, the others are stopped. Raises Refused."""
    if adopted := adopt_batch(session, "release", flow_run_id):
        return Released(adopted)
    vms = chosen(session, request.vms, request.tenant)
    for vm in vms:
        check_allowed("release", vm.name, VmState(vm.state))
    check_running(session, [vm for vm in vms if vm.desired != Desired.STOPPED])
    return _release(session, vms, request.model_dump(mode="json"), actor, flow_run_id)


def claim_due(
    session: Session, now: datetime, *, actor: str, flow_run_id: str | None = None
) -> Released | None:
    """Release the machines whose time has come; None where there is none."""
    due = select(Vm).where(Vm.state == VmState.HELD, Vm.hold_until <= now).order_by(Vm.name)
    busy = select(Operation.object_id).where(Operation.open_key.like("vm:%"))
    vms = list(session.scalars(due.where(Vm.id.not_in(busy))))
    return _release(session, vms, {"due": now.isoformat()}, actor, flow_run_id) if vms else None


def _release(
    session: Session, vms: list[Vm], asked: dict[str, object], actor: str, flow_run_id: str | None
) -> Released:
    ids = [vm.id for vm in vms]
    made = with_event(session, ids, "created")
    batch_id = new_id()
    opening = Opening("release", "batch", batch_id, label_of(vms), asked, batch_id)
    parent = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    # A machine that was never made is deployed from here on, with all that this means when it fails.
    claims = operations.open_many(
        session,
        [Opening("release" if vm.id in made else "deploy", "vm", vm.id, vm.name, {}) for vm in vms],
        actor=actor,
        flow_run_id=flow_run_id,
        parent_id=batch_id,
    )
    return _let_go(session, parent, list(zip(vms, claims, strict=True)), made)


def _let_go(
    session: Session, parent: Claim, released: Sequence[tuple[Vm, Claim]], made: set[str]
) -> Released:
    machines, stopped = [], []
    for vm, claim in released:
        new = VmState.STOPPED if vm.id in made else VmState.DEPLOYING
        check_move(vm.name, VmState(vm.state), new)
        vm.state, vm.hold_until = new, None
        if vm.id in made:
            session.add(vm_event(vm, claim, "released", utc_now(), specs.load(vm.spec).host.name))
            operations.close(session, claim)
            stopped.append(vm.name)
        else:
            machines.append(Machine(claim, specs.load(vm.spec)))
    return Released(Batch(parent, tuple(machines)), tuple(stopped))
