"""A machine becomes another tenant's, who pays from then on. On its host nothing changes."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.access import usable_by
from vdc.claims.persistent_disks import check_idle, image_of
from vdc.claims.terminate import find_vm
from vdc.errors import Conflict, Forbidden, Invalid, InvalidState
from vdc.names import find
from vdc.operations import Opening
from vdc.routers import check_no_router
from vdc.schema import Disk, Nic, Share, Tenant, Vm, Vnet, Volume, utc_now
from vdc.security_groups import groups_of
from vdc.states import VmState, check_allowed
from vdc.usage import check_quota, check_vm_limits, vm_use
from vdc.usage_events import vm_event, with_event


def give(session: Session, name: str, to: str, tenant: str = "", *, actor: str) -> Vm:
    """Make a machine that of tenant `to`, with its disks, snapshots and addresses. It is nobody's own there.

    Raises NotFound, Forbidden where it is on a network that is not `to`'s, Conflict where its name is taken
    there, QuotaExceeded.
    """
    vm = find_vm(session, name, tenant)
    receiver = find(session, Tenant, "tenant", to)
    check_allowed("give", vm.name, VmState(vm.state))
    giver = session.get_one(Tenant, vm.tenant_id)
    if receiver.id == giver.id:
        raise Invalid(f"Machine {vm.name} is tenant {to}'s already.")
    opening = Opening("give", "vm", vm.id, vm.name, {"from": giver.name, "to": receiver.name})
    claim = operations.open_one(session, opening, actor=actor)
    check_no_router(session, vm, "given away")
    _check_networks(session, vm, receiver)
    if groups := groups_of(session, vm.id):
        raise InvalidState(
            f"Machine {vm.name} is in tenant {giver.name}'s security group {', '.join(groups)}: "
            "take it out first (`vdc sg unassign`)."
        )
    live_name = f"{receiver.id}/{vm.name}"
    if session.scalars(select(Vm.id).where(Vm.live_name == live_name)).first():
        raise Conflict(f"Machine name {vm.name!r} is taken in tenant {to}: rename it first.")
    size, image = vm_use(session, vm.id), image_of(session, vm.id)
    if image is not None:
        check_idle(session, image)
        size = replace(size, images=1)
    check_vm_limits(session, receiver, size)
    check_quota(session, receiver, size)
    # With whom its tenant shared it, it shared as its own.
    session.execute(delete(Share).where(Share.object_id == vm.id))
    spec = replace(specs.load(vm.spec), tenant=receiver.name)
    vm.tenant_id, vm.owner_id, vm.live_name, vm.spec = receiver.id, None, live_name, specs.dump(spec)
    _give_volumes(session, vm, receiver)
    if image is not None:  # it is the machine's disk
        session.execute(delete(Share).where(Share.object_id == image.id))
        image.tenant_id, image.owner_id = receiver.id, None
    if with_event(session, [vm.id], "created"):
        where = spec.cloud.name if spec.cloud else spec.host.name
        session.add(vm_event(vm, claim, "owner-changed", utc_now(), where))
    operations.close(session, claim)
    return vm


def _give_volumes(session: Session, vm: Vm, receiver: Tenant) -> None:
    """Disks of their own that it has: who pays for them pays for the machine."""
    query = select(Volume).join(Disk, Disk.volume_id == Volume.id).where(Disk.vm_id == vm.id)
    for volume in session.scalars(query.order_by(Volume.name)):
        live_name = f"{receiver.id}/{volume.name}"
        if session.scalars(select(Volume.id).where(Volume.live_name == live_name)).first():
            raise Conflict(
                f"Machine {vm.name} has a disk {volume.name}, and tenant {receiver.name} another one of that "
                "name: detach it first."
            )
        volume.tenant_id, volume.owner_id, volume.live_name = receiver.id, None, live_name


def _check_networks(session: Session, vm: Vm, receiver: Tenant) -> None:
    query = select(Vnet).join(Nic, Nic.vnet_id == Vnet.id).where(Nic.vm_id == vm.id).order_by(Vnet.name)
    for vnet in session.scalars(query):
        if not usable_by(session, vnet, receiver.id):
            raise Forbidden(
                f"Machine {vm.name} is on network {vnet.name}, which is not tenant {receiver.name}'s: "
                "it would stay on a network of others."
            )
