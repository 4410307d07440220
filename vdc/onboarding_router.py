"""The router of a tenant's file: what of it is there, and what is to be asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.claims.attach import address_in
from vdc.claims.routers import check_routable
from vdc.errors import Conflict, Invalid
from vdc.requests import CreateRouterRequest, ForwardPortRequest
from vdc.routers import serving
from vdc.schema import Nic, PortForward, Tenant, Vm, Vnet

if TYPE_CHECKING:
    from vdc.onboarding import FileForward, FileRouter, TenantFile


def router_to_make(
    session: Session, wanted: FileRouter, vnet: Vnet, changes: list[str]
) -> CreateRouterRequest | None:
    """What is to be asked for; None where it is there. Raises Invalid, Conflict."""
    asked = CreateRouterRequest(vnet=vnet.name, template=wanted.template, address=wanted.public_address or "")
    public = check_routable(session, asked, vnet)
    if there := serving(session, [vnet.id]):
        query = select(Nic.address).where(Nic.vm_id == there[0].vm_id, Nic.vnet_id != vnet.id)
        address = session.scalars(query).first()
        if wanted.public_address not in (None, address):
            raise Conflict(
                f"The router of {vnet.name} has the public address {address}, not {wanted.public_address}: "
                f"`vdc router delete {vnet.name}` first."
            )
        return None
    if wanted.public_address:
        address_in(session, public, wanted.public_address)
    changes.append(f"router of {vnet.name} to be made")
    return asked


def forwards_to_change(
    session: Session, wanted: TenantFile, vnet: Vnet, changes: list[str]
) -> list[ForwardPortRequest]:
    """Those to remove, then those to add. Raises Invalid for a port that is there twice, or a machine that
    the file does not name and the tenant does not have."""
    assert wanted.router is not None, "asked for its sake"
    asked: dict[tuple[str, int], FileForward] = {}
    for one in wanted.router.forwards:
        if (one.protocol, one.port) in asked:
            raise Invalid(f"Port {one.port}/{one.protocol} of the router is in the file more than once.")
        asked[one.protocol, one.port] = one
        _check_forwarded(session, wanted, one, vnet)
    there = {
        (protocol, port): (vm, to_port)
        for router in serving(session, [vnet.id])
        for protocol, port, vm, to_port in session.execute(
            select(PortForward.protocol, PortForward.port, Vm.name, PortForward.to_port)
            .join(Vm, Vm.id == PortForward.vm_id)
            .where(PortForward.router_id == router.id)
        )
    }
    wants = {key: (one.machine, one.to_port or one.port) for key, one in asked.items()}
    found = []
    for key, (vm, to_port) in sorted(there.items()):
        if wants.get(key) != (vm, to_port):
            changes.append(f"forward {key[0]} {key[1]} to {vm}:{to_port} to be removed")
            found.append(_forward("remove", vnet, key))
    for key, (vm, to_port) in sorted(wants.items()):
        if there.get(key) != (vm, to_port):
            changes.append(f"forward {key[0]} {key[1]} to {vm}:{to_port} to be made")
            found.append(_forward("add", vnet, key, vm=vm, to_port=to_port))
    return found


def _forward(verb: str, vnet: Vnet, key: tuple[str, int], **options: object) -> ForwardPortRequest:
    values = {"verb": verb, "vnet": vnet.name, "protocol": key[0], "port": key[1], **options}
    return ForwardPortRequest.model_validate(values)


def _check_forwarded(session: Session, wanted: TenantFile, one: FileForward, vnet: Vnet) -> None:
    on_it = select(Vm.id).join(Tenant, Tenant.id == Vm.tenant_id).join(Nic, Nic.vm_id == Vm.id)
    on_it = on_it.where(Tenant.name == wanted.tenant, Vm.name == one.machine, Nic.vnet_id == vnet.id)
    named = any(machine.name == one.machine for machine in wanted.machines)
    there = session.scalars(select(Vm.id).where(Vm.live_name == f"{vnet.tenant_id}/{one.machine}")).first()
    if session.scalars(on_it).first() is None and (there or not named):
        raise Invalid(
            f"Port {one.port}/{one.protocol} cannot lead to {one.machine!r}: that is no machine of "
            f"{wanted.tenant} on network {vnet.name}, and none of the file."
        )
