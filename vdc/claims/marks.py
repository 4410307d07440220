"""What changes in the inventory alone: a machine's name, and its protection against deletion."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.power import chosen
from vdc.claims.terminate import find_vm
from vdc.errors import Conflict, Invalid
from vdc.names import check_name
from vdc.operations import Opening
from vdc.requests import MachinesRequest
from vdc.schema import Vm
from vdc.states import VmState, check_allowed


def protect(session: Session, request: MachinesRequest, *, protected: bool, actor: str) -> dict[str, str]:
    """Refuse from now on to terminate machines, or no more; returns id -> name. Raises Refused."""
    verb = "protect" if protected else "unprotect"
    vms = chosen(session, request.vms, request.tenant)
    for vm in vms:
        check_allowed(verb, vm.name, VmState(vm.state))
        claim = operations.open_one(session, Opening(verb, "vm", vm.id, vm.name, {}), actor=actor)
        vm.protected = protected
        operations.close(session, claim)
    return {vm.id: vm.name for vm in vms}


def rename(session: Session, name: str, new: str, tenant: str = "", *, actor: str) -> None:
    """Call a machine otherwise. Its guest keeps its hostname, its host the domain. Raises Refused."""
    vm = find_vm(session, name, tenant)
    check_allowed("rename", vm.name, VmState(vm.state))
    check_name("Machine", new)
    if new == vm.name:
        raise Invalid(f"Machine {vm.name} is called so already.")
    live_name = f"{vm.tenant_id}/{new}"
    if session.scalars(select(Vm.id).where(Vm.live_name == live_name)).first():
        raise Conflict(f"Machine name {new!r} is taken in this tenant: choose another.")
    opening = Opening("rename", "vm", vm.id, vm.name, {"from": vm.name, "to": new})
    claim = operations.open_one(session, opening, actor=actor)
    vm.name, vm.live_name = new, live_name
    vm.spec = specs.dump(replace(specs.load(vm.spec), name=new))
    operations.close(session, claim)
