"""What an administrator writes down: tenants, datastores, networks, templates, placement groups.

These touch the inventory alone, so that they are audited functions and no flows: one transaction checks,
writes the row, and journals it as an operation that is closed at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import asking, check
from vdc.addresses import pool
from vdc.claims.deploy import check_sizes, check_usable
from vdc.claims.images import named
from vdc.errors import Conflict, Invalid, InvalidState
from vdc.months import check_time_zone
from vdc.names import find, require_new
from vdc.operations import Opening
from vdc.schema import Base, Datastore, Image, PlacementGroup, Template, Tenant, Vm, Vnet, new_id
from vdc.ssh_keys import check_ssh_key
from vdc.states import HOLDING
from vdc.vxlan import wire


def _add(session: Session, kind: str, name: str, row: Base, spec: dict[str, Any], actor: str) -> None:
    session.add(row)
    session.flush()
    identity: Any = row
    opening = Opening("create", kind, identity.id, name, spec)
    operations.close(session, operations.open_one(session, opening, actor=actor))


def create_tenant(
    session: Session,
    name: str,
    *,
    max_vms: int | None = None,
    max_vcpu: int | None = None,
    max_memory_mib: int | None = None,
    max_disk_mib: int | None = None,
    time_zone: str = "UTC",
    actor: str,
) -> Tenant:
    """A limit of None means none; `time_zone` is that of its bills. Raises Invalid or Conflict."""
    check(session, "tenant.create", name)
    require_new(session, Tenant, "Tenant", name)
    check_time_zone(time_zone)
    limits = {
        "max_vms": max_vms,
        "max_vcpu": max_vcpu,
        "max_memory_mib": max_memory_mib,
        "max_disk_mib": max_disk_mib,
    }
    for key, limit in limits.items():
        if limit is not None and limit < 0:
            raise Invalid(f"Quota {key} {limit} is refused: it cannot be negative.")
    tenant = Tenant(id=new_id(), name=name, time_zone=time_zone, **limits)
    _add(session, "tenant", name, tenant, limits, actor)
    return tenant


def create_datastore(
    session: Session,
    name: str,
    uri: str,
    *,
    disk_format: str,
    shared: bool = True,
    overcommit: float | None = None,
    actor: str,
) -> Datastore:
    """`disk_format` and `shared` are those of the driver which `uri` names. Raises Invalid or Conflict.

    `overcommit` is how many times its size may be promised to machines; None: without limit.
    """
    check(session, "datastore.create", name)
    require_new(session, Datastore, "Datastore", name)
    if overcommit is not None and not 0.1 <= overcommit <= 1000:
        raise Invalid(f"An over-commit of {overcommit:g} is refused: give a factor from 0.1 to 1000.")
    taken = session.scalars(select(Datastore.name).where(Datastore.uri == uri)).first()
    if taken is not None:
        raise Conflict(f"{uri} is datastore {taken} already.")
    datastore = Datastore(
        id=new_id(), name=name, uri=uri, disk_format=disk_format, shared=shared, overcommit=overcommit
    )
    _add(session, "datastore", name, datastore, {"uri": uri, "overcommit": overcommit}, actor)
    return datastore


def create_vnet(
    session: Session,
    name: str,
    *,
    uri: str,
    needs_vlan: bool,
    vlan_id: int | None,
    cidr: str,
    gateway: str | None = None,
    first_address: str | None = None,
    last_address: str | None = None,
    dns: Sequence[str] = (),
    public: bool = False,
    actor: str,
) -> Vnet:
    """`needs_vlan` is the capability of the driver which `uri` names. Raises Invalid or Conflict."""
    check(session, "vnet.create", name)
    require_new(session, Vnet, "Network", name)
    if needs_vlan and vlan_id is None:
        raise Invalid(f"Network {name} on {uri} needs a VLAN id: add --vlan.")
    if not needs_vlan and vlan_id is not None:
        raise Invalid(f"Network {name} on {uri} takes no VLAN id.")
    if vlan_id is not None and not 1 <= vlan_id <= 4094:
        raise Invalid(f"VLAN {vlan_id} is refused: IEEE 802.1Q has 1 to 4094.")
    others = session.execute(select(Vnet.name, Vnet.uri, Vnet.vlan_id))
    taken = next((other for other, its, of in others if wire(its, of) == wire(uri, vlan_id)), None)
    if taken is not None:
        which = uri if vlan_id is None else f"VLAN {vlan_id} on {uri}"
        raise Conflict(f"{which} is in use by network {taken}.")
    if public and not gateway:
        raise Invalid(f"Network {name} is to be public, and needs the gateway that leads out: add --gateway.")
    first, last = pool(cidr, gateway, first_address, last_address)
    vnet = Vnet(
        id=new_id(),
        name=name,
        uri=uri,
        vlan_id=vlan_id,
        cidr=cidr,
        gateway=gateway,
        first_address=str(first),
        last_address=str(last),
        dns=list(dns),
        public=public,
    )
    _add(session, "vnet", name, vnet, {"uri": uri, "vlan_id": vlan_id, "cidr": cidr}, actor)
    return vnet


def create_template(
    session: Session,
    name: str,
    *,
    image: str,
    vcpu: int,
    memory_mib: int,
    disk_mib: int | None = None,
    vnets: Sequence[str] = (),
    ssh_keys: Sequence[str] = (),
    start_script: str = "",
    context: Mapping[str, Any] | None = None,
    tenant: str = "",
    actor: str,
) -> Template:
    """Without `disk_mib` the disk is as large as the image; `tenant`: whose it is, empty: everyone's.

    `context` is what vdc.context.read_context made of it. Raises Refused.
    """
    require_new(session, Template, "Template", name)
    source = find(session, Image, "image", image)
    tenant = tenant or asking(session).house
    whose = find(session, Tenant, "tenant", tenant) if tenant else None
    check_usable(session, source, whose)
    disk_mib = source.virtual_size_mib if disk_mib is None else disk_mib
    check_sizes(vcpu, memory_mib, disk_mib, source)
    for key in ssh_keys:
        check_ssh_key(key)
    template = Template(
        id=new_id(),
        name=name,
        tenant_id=whose.id if whose else None,
        owner_id=asking(session).user_id or None,
        image_id=source.id,
        vcpu=vcpu,
        memory_mib=memory_mib,
        disk_mib=disk_mib,
        vnet_ids=[find(session, Vnet, "virtual network", v).id for v in vnets],
        ssh_keys=[key.strip() for key in ssh_keys],
        start_script=start_script,
        context=dict(context or {}),
    )
    spec = {
        "image": image,
        "vcpu": vcpu,
        "memory_mib": memory_mib,
        "disk_mib": disk_mib,
        "vnets": list(vnets),
    }
    _add(session, "template", name, template, spec, actor)
    return template


def delete_template(session: Session, name: str, *, actor: str) -> None:
    """Forget a template. Raises NotFound, InvalidState where machines of it are there."""
    template = find(session, Template, "template", name)
    check(session, "template.delete", name, template.id)
    live = select(Vm.name).where(Vm.template_id == template.id, Vm.state.in_(HOLDING)).order_by(Vm.name)
    if vms := session.scalars(live).all():
        raise InvalidState(
            f"Template {name} is in use: {named('machine', vms)}. It can be deleted when they are gone."
        )
    session.execute(update(Vm).where(Vm.template_id == template.id).values(template_id=None))
    opening = Opening("delete", "template", template.id, name, {})
    operations.close(session, operations.open_one(session, opening, actor=actor))
    session.delete(template)


def create_group(session: Session, name: str, policy: str, *, actor: str) -> PlacementGroup:
    """`policy` is affinity or anti-affinity. Raises Invalid or Conflict."""
    check(session, "group.create", name)
    require_new(session, PlacementGroup, "Placement group", name)
    if policy not in ("affinity", "anti-affinity"):
        raise Invalid(f"Policy {policy!r} is refused: a group has affinity or anti-affinity.")
    group = PlacementGroup(id=new_id(), name=name, policy=policy)
    _add(session, "group", name, group, {"policy": policy}, actor)
    return group
