"""The claim of a termination."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from vdc import specs
from vdc.access import visible
from vdc.claims.batch import Batch, adopt_batch, open_batch
from vdc.claims.persistent_disks import check_left_clean
from vdc.errors import Invalid, InvalidState, NotFound
from vdc.requests import TerminateRequest
from vdc.routers import check_no_router
from vdc.schema import Disk, Tenant, Vm, Volume
from vdc.states import HOLDING, Desired, VmState, check_terminable


def find_vm(session: Session, name: str, tenant: str = "") -> Vm:
    """The live machine called `name`, or with that id; else the newest that ended.

    Raises NotFound where there is none, Invalid where several tenants have one.
    """
    return find_vms(session, [name], tenant)[0]


def find_vms(session: Session, names: Sequence[str], tenant: str = "") -> list[Vm]:
    """As `find_vm`, for each of `names`, in one query."""
    query = select(Vm).where(or_(Vm.name.in_(names), Vm.id.in_(names)), visible(session, Vm))
    query = query.order_by(Vm.created_at.desc())
    if tenant:
        query = query.join(Tenant, Tenant.id == Vm.tenant_id).where(Tenant.name == tenant)
    found: dict[str, list[Vm]] = {}
    for vm in session.scalars(query):
        for key in {vm.name, vm.id}:
            found.setdefault(key, []).append(vm)
    return [_the_one(name, found.get(name, []), tenant) for name in names]


def _the_one(name: str, found: Sequence[Vm], tenant: str) -> Vm:
    if not found:
        raise NotFound(f"There is no machine {name!r}{f' of tenant {tenant}' if tenant else ''}.")
    live = [vm for vm in found if vm.state in HOLDING]
    if len(live) > 1:
        raise Invalid(f"Several tenants have a machine {name!r}: add --tenant, or give its id.")
    return live[0] if live else found[0]


def claim_terminate(
    session: Session,
    request: TerminateRequest,
    *,
    actor: str,
    flow_run_id: str | None = None,
    routers: bool = False,
) -> Batch:
    """Open an operation on each machine and mark it as leaving. Raises Refused where one cannot be.

    A router only goes where `routers` says so.
    """
    if adopted := adopt_batch(session, "terminate", flow_run_id):
        return adopted
    if not request.vms:
        raise Invalid("No machine was named.")
    vms = list({vm.id: vm for vm in find_vms(session, request.vms, request.tenant)}.values())
    for vm in vms:
        check_terminable(vm.name, VmState(vm.state))
        if not routers:
            check_no_router(session, vm, "terminated")
        if vm.protected:
            raise InvalidState(
                f"Machine {vm.name} is protected against deletion: `vdc vm unprotect {vm.name}` first."
            )
        _check_kept(session, vm)
        check_left_clean(session, vm)
    batch = open_batch(
        session,
        "terminate",
        vms[0].name if len(vms) == 1 else f"{vms[0].name} and {len(vms) - 1} more",
        request.model_dump(mode="json"),
        [specs.load(vm.spec) for vm in vms],
        actor=actor,
        flow_run_id=flow_run_id,
    )
    # A machine that failed has left nothing behind and holds no place: it stays as it is until it is gone.
    holding = [vm.id for vm in vms if vm.state in HOLDING]
    session.execute(
        update(Vm).where(Vm.id.in_(holding)).values(desired=Desired.ABSENT, state=VmState.TERMINATING)
    )
    return batch


def _check_kept(session: Session, vm: Vm) -> None:
    """A disk that is on its way out, to be kept, must not go with the machine."""
    query = select(Volume.name).join(Disk, Disk.volume_id == Volume.id)
    query = query.where(Disk.vm_id == vm.id, Disk.ready.is_(False), Volume.keep)
    if name := session.scalars(query).first():
        raise InvalidState(
            f"Disk {name} of machine {vm.name} is to be kept, and is not out yet: `vdc reconcile` first."
        )
