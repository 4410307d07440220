"""Routers: which network has one, and what it is to know, derived from the rows of its network's machines.

A router is a machine of its tenant, with two cards: the first on the site's public network, the second on the
network that it serves, with the address of that one's gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from vdc import model, specs
from vdc.access import visible
from vdc.errors import InvalidState, NotFound
from vdc.model import Lease, RouterSpec
from vdc.names import find
from vdc.schema import Nic, PortForward, Router, Tenant, Vm, Vnet

DOMAIN = "internal"
"""Set aside for private use (ICANN, 2024): names of machines are NAME.TENANT.internal."""


def find_router(session: Session, vnet: str) -> tuple[Router, Vnet]:
    """The router of the network called so. Raises NotFound."""
    row = find(session, Vnet, "virtual network", vnet)
    query = select(Router).where(Router.vnet_id == row.id, visible(session, Router))
    router = session.scalars(query).first()
    if router is None:
        raise NotFound(f"Network {vnet} has no router. Make one: vdc router create {vnet}")
    return router, row


def serving(session: Session, vnet_ids: Iterable[str]) -> list[Router]:
    """The routers of these networks."""
    query = select(Router).where(Router.vnet_id.in_(set(vnet_ids)))
    return list(session.scalars(query.order_by(Router.id)))


def routed_networks(session: Session) -> list[str]:
    """Ids of all networks that have one."""
    return list(session.scalars(select(Router.vnet_id)))


def routed_networks_of(session: Session, vm_id: str) -> list[str]:
    """Names of the networks with a router that a machine has a card on."""
    query = select(Vnet.name).join(Router, Router.vnet_id == Vnet.id).join(Nic, Nic.vnet_id == Vnet.id)
    return list(session.scalars(query.where(Nic.vm_id == vm_id).order_by(Vnet.name).distinct()))


def check_no_router(session: Session, vm: Vm, act: str) -> None:
    """Raise InvalidState for a machine that is a router; `act` is what would be done to it, `removed`."""
    query = select(Vnet.name).join(Router, Router.vnet_id == Vnet.id).where(Router.vm_id == vm.id)
    if vnet := session.scalars(query).first():
        raise InvalidState(
            f"Machine {vm.name} is the router of network {vnet}: it cannot be {act} like any machine. "
            f"See `vdc router show {vnet}`."
        )


def routing(
    session: Session,
    router: Router,
    public: model.VnetSpec,
    public_address: str,
    time_servers: tuple[str, ...],
) -> RouterSpec:
    """What the router is to know now."""
    vnet = session.get_one(Vnet, router.vnet_id)
    tenant = session.get_one(Tenant, router.tenant_id)
    assert vnet.gateway is not None, "looked at before"
    on_it = select(Vm.id, Vm.name, Nic.mac, Nic.address).join(Nic, Nic.vm_id == Vm.id)
    machines = session.execute(on_it.where(Nic.vnet_id == vnet.id, Nic.ready).order_by(Nic.address)).all()
    # Of a machine with two cards on the network, the first is the one that is meant.
    addresses = {vm_id: address for vm_id, _, _, address in reversed(machines)}
    forwards = select(PortForward).where(PortForward.router_id == router.id)
    return RouterSpec(
        cidr=vnet.cidr,
        address=vnet.gateway,
        public_address=public_address,
        domain=f"{tenant.name}.{DOMAIN}",
        resolvers=public.dns,
        time_servers=time_servers,
        leases=tuple(Lease(name, mac, address) for _, name, mac, address in machines),
        forwards=tuple(
            model.Forward(one.protocol, one.port, addresses[one.vm_id], one.to_port)
            for one in session.scalars(forwards.order_by(PortForward.protocol, PortForward.port))
            if one.vm_id in addresses
        ),
    )


def bring_up_to_date(
    session: Session, router: Router, time_servers: Sequence[str] | None = None
) -> model.VmSpec:
    """Write into the router's spec what it is to know now; the spec, from which its seed is made.

    Its `time_servers` are those that it had, unless others are given.
    """
    vm = session.get_one(Vm, router.vm_id)
    spec = specs.load(vm.spec)
    public = next(nic for nic in spec.nics if nic.vnet.vnet_id != router.vnet_id)
    before = spec.context.router
    assert before is not None, "a router's spec has it from the beginning"
    servers = before.time_servers if time_servers is None else tuple(time_servers)
    known = routing(session, router, public.vnet, public.address, servers)
    spec = replace(spec, context=replace(spec.context, router=known))
    vm.spec = specs.dump(spec)
    return spec


def forget_routers(session: Session, vm_ids: Sequence[str]) -> None:
    """Machines have ended: what was forwarded to them is no more, nor are those of them that were routers."""
    session.execute(delete(PortForward).where(PortForward.vm_id.in_(vm_ids)))
    for router in session.scalars(select(Router).where(Router.vm_id.in_(vm_ids))):
        vnet = session.get_one(Vnet, router.vnet_id)
        if vnet.dns == [vnet.gateway]:
            vnet.dns = []
        session.execute(delete(PortForward).where(PortForward.router_id == router.id))
        session.delete(router)
    session.flush()


def listing(session: Session) -> list[dict[str, Any]]:
    """Routers that who asks may see, by network."""
    query = (
        select(Router, Vnet, Vm, Tenant.name)
        .join(Vnet, Vnet.id == Router.vnet_id)
        .join(Vm, Vm.id == Router.vm_id)
        .join(Tenant, Tenant.id == Router.tenant_id)
        .where(visible(session, Router))
        .order_by(Vnet.name)
    )
    rows = []
    for router, vnet, vm, tenant in session.execute(query):
        spec = specs.load(vm.spec)
        public = next(nic for nic in spec.nics if nic.vnet.vnet_id != vnet.id)
        forwards = select(PortForward, Vm.name).join(Vm, Vm.id == PortForward.vm_id)
        forwards = forwards.where(PortForward.router_id == router.id)
        rows.append(
            {
                "id": router.id,
                "vnet": vnet.name,
                "tenant": tenant,
                "vm": vm.name,
                "state": vm.state,
                "host": spec.host.name,
                "public_vnet": public.vnet.name,
                "public_address": public.address,
                "address": vnet.gateway,
                "domain": f"{tenant}.{DOMAIN}",
                "forwards": [
                    {"protocol": one.protocol, "port": one.port, "vm": name, "to_port": one.to_port}
                    for one, name in session.execute(
                        forwards.order_by(PortForward.protocol, PortForward.port)
                    )
                ],
                "machines": len(spec.context.router.leases) - 1 if spec.context.router else 0,
                "created_at": router.created_at,
            }
        )
    return rows
