"""The claim of switching machines: start, stop, reboot, reset, pause, resume, suspend."""

from __future__ import annotations

from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from vdc import specs
from vdc.access import check
from vdc.claims.batch import Batch, adopt_batch, open_batch
from vdc.claims.next_start import take_next
from vdc.claims.terminate import find_vms
from vdc.errors import Invalid, InvalidState, Unsupported
from vdc.model import VmSpec
from vdc.operations import Claim
from vdc.requests import PowerRequest
from vdc.schema import Operation, Tenant, Vm
from vdc.states import Desired, VmState, check_allowed
from vdc.usage import check_running

BECOMES = {
    "start": Desired.RUNNING,
    "stop": Desired.STOPPED,
    "reboot": Desired.RUNNING,
    "reset": Desired.RUNNING,
    "pause": Desired.PAUSED,
    "resume": Desired.RUNNING,
    "suspend": Desired.SUSPENDED,
}
"""Verb -> what a machine is to be afterwards."""

MAX_TIMEOUT_S = 3600


def chosen(session: Session, names: list[str], tenant: str) -> list[Vm]:
    """The machines that were named, each once. Raises Refused."""
    if not names:
        raise Invalid("No machine was named.")
    return list({vm.id: vm for vm in find_vms(session, names, tenant)}.values())


def label_of(vms: list[Vm]) -> str:
    return vms[0].name if len(vms) == 1 else f"{vms[0].name} and {len(vms) - 1} more"


def claim_power(
    session: Session, request: PowerRequest, *, actor: str, flow_run_id: str | None = None
) -> Batch:
    """Open an operation on each machine and say what it is to be. Raises Refused where one cannot be."""
    if adopted := adopt_batch(session, request.verb, flow_run_id):
        return adopted
    if not 0 <= request.timeout_s <= MAX_TIMEOUT_S:
        raise Invalid(f"A time-out of {request.timeout_s:g} s is refused: 0 to {MAX_TIMEOUT_S} s.")
    vms = chosen(session, request.vms, request.tenant)
    for vm in vms:
        _check(vm, request)
    if BECOMES[request.verb] is Desired.RUNNING:
        off = [vm for vm in vms if vm.state in (VmState.STOPPED, VmState.SUSPENDED)]
        _check_stays(session, off)
        check_running(session, off)
    batch = open_batch(
        session,
        request.verb,
        label_of(vms),
        request.model_dump(mode="json"),
        [take_next(vm) if _is_off(vm) and request.verb == "start" else specs.load(vm.spec) for vm in vms],
        actor=actor,
        flow_run_id=flow_run_id,
    )
    session.execute(update(Vm).where(Vm.id.in_([vm.id for vm in vms])).values(desired=BECOMES[request.verb]))
    return batch


def _check_stays(session: Session, vms: list[Vm]) -> None:
    """Of a tenant that leaves the disks may be on their way out: nobody is to write to them."""
    for vm in vms:
        tenant = session.get_one(Tenant, vm.tenant_id)
        if tenant.state != "active":
            raise InvalidState(f"Machine {vm.name} is not started: tenant {tenant.name} is {tenant.state}.")


def _is_off(vm: Vm) -> bool:
    """One that is suspended goes on as what it was."""
    return vm.state == VmState.STOPPED


def _check(vm: Vm, request: PowerRequest) -> None:
    state = VmState(vm.state)
    if request.verb == "stop" and not request.hard and state in (VmState.PAUSED, VmState.SUSPENDED):
        loses = "its guest cannot hear" if state is VmState.PAUSED else "its saved memory would be lost"
        raise InvalidState(
            f"Machine {vm.name} is {state.value}: {loses}. Resume it first, or stop it with --hard."
        )
    check_allowed("stop --hard" if request.verb == "stop" and request.hard else request.verb, vm.name, state)
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts are switched.")


def machine_to_see(session: Session, name: str, tenant: str, operation: str) -> VmSpec:
    """The machine whose `console` or screen (`vnc`) somebody wants to see. Raises Refused."""
    vm = chosen(session, [name], tenant)[0]
    check(session, f"vm.{operation}", vm.name, vm.id)
    check_allowed(operation, vm.name, VmState(vm.state))
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: ask its provider for its {operation}.")
    return specs.load(vm.spec)


def mark_asked(session: Session, claim: Claim) -> bool:
    """Write down that a guest is about to be asked for what cannot be asked twice; False if it is already."""
    ours = select(Operation).where(Operation.id == claim.operation_id, Operation.epoch == claim.epoch)
    operation = session.scalars(ours).one_or_none()
    if operation is None or operation.spec.get("asked"):
        return False
    operation.spec = operation.spec | {"asked": True}
    return True


def tell(session: Session, claim: Claim, told: dict[str, Any]) -> bool:
    """Keep what there is to tell of an operation that is under way; False if it is no longer ours."""
    changed: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(Operation)
        .where(Operation.id == claim.operation_id, Operation.epoch == claim.epoch)
        .values(result=told)
    )
    return bool(changed.rowcount)
