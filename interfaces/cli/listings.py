"""What the reading commands show, with the stable keys of docs/cli.md. Plain selects: rows, not objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from vdc.model import domain_name
from vdc.schema import (
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Nic,
    Operation,
    PlacementGroup,
    Template,
    Tenant,
    Vm,
    Vnet,
)
from vdc.states import HOLDING
from vdc.usage import host_loads, tenant_use

Rows = list[dict[str, Any]]


def vms(
    session: Session,
    *,
    tenant: str = "",
    ended: bool = False,
    ids: Sequence[str] | None = None,
) -> Rows:
    """Machines by name; with `ended` also those that failed or are gone."""
    query = (
        select(
            Vm.id,
            Vm.name,
            Tenant.name,
            Vm.state,
            Vm.desired,
            Host.name,
            Vm.vcpu,
            Vm.memory_mib,
            Template.name,
            Vm.created_at,
            Vm.observed,
            Vm.observed_at,
            Vm.ended_at,
        )
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .join(Host, Host.id == Vm.host_id)
        .join(Template, Template.id == Vm.template_id)
        .order_by(Vm.name, Vm.created_at)
    )
    nics = select(Nic.vm_id, Nic.index, Vnet.name, Nic.address, Nic.mac).join(Vnet, Vnet.id == Nic.vnet_id)
    disks = select(Disk.vm_id, Disk.index, Datastore.name, Disk.file, Disk.format, Disk.size_mib).join(
        Datastore, Datastore.id == Disk.datastore_id
    )
    if ids is not None:
        query, nics, disks = (
            query.where(Vm.id.in_(ids)),
            nics.where(Nic.vm_id.in_(ids)),
            disks.where(Disk.vm_id.in_(ids)),
        )
    elif not ended:
        query = query.where(Vm.state.in_(HOLDING))
    if tenant:
        query = query.where(Tenant.name == tenant)
    addresses: dict[str, Rows] = {}
    for vm_id, _, vnet, address, mac in session.execute(nics.order_by(Nic.vm_id, Nic.index)):
        addresses.setdefault(vm_id, []).append({"vnet": vnet, "address": address, "mac": mac})
    of_disks: dict[str, Rows] = {}
    for vm_id, _, datastore, file, kind, size in session.execute(disks.order_by(Disk.vm_id, Disk.index)):
        of_disks.setdefault(vm_id, []).append(
            {"datastore": datastore, "file": file, "format": kind, "size_mib": size}
        )
    rows = []
    for row in session.execute(query):
        vm_id, name, owner, state, desired, host, vcpu, memory, template, created, seen, seen_at, end = row
        live = state in HOLDING
        rows.append(
            {
                "id": vm_id,
                "name": name,
                "tenant": owner,
                "state": state,
                "desired": desired,
                "host": host if live else None,
                "domain": domain_name(vm_id) if live else None,
                "vcpu": vcpu,
                "memory_mib": memory,
                "template": template,
                "addresses": addresses.get(vm_id, []),
                "disks": of_disks.get(vm_id, []),
                "created_at": created,
                "observed": seen,
                "observed_at": seen_at,
                "ended_at": end,
            }
        )
    return rows


def hosts(session: Session) -> Rows:
    """Hosts by name. `vcpu` and `memory_mib` are what may be given to machines, over-commit included."""
    loads = {load.host_id: load for load in host_loads(session)}
    mounts: dict[str, list[str]] = {}
    for host_id, name in session.execute(
        select(HostDatastore.host_id, Datastore.name).join(Datastore).order_by(Datastore.name)
    ):
        mounts.setdefault(host_id, []).append(name)
    return [
        {
            "id": host.id,
            "name": host.name,
            "uri": host.uri,
            "state": host.state,
            "vcpu": loads[host.id].vcpu,
            "vcpu_used": loads[host.id].vcpu_used,
            "memory_mib": int(loads[host.id].memory_mib),
            "memory_mib_used": loads[host.id].memory_mib_used,
            "vms": loads[host.id].vms,
            "domain_type": host.domain_type,
            "arch": host.arch,
            "hypervisor_version": host.hypervisor_version,
            "datastores": mounts.get(host.id, []),
            "networks": host.networks,
            "labels": host.labels,
            "load_1m": host.load_1m,
            "observed_at": host.observed_at,
        }
        for host in session.scalars(select(Host).order_by(Host.name))
    ]


def datastores(session: Session) -> Rows:
    """`allocated_mib` is what machines and images were promised; overlays take less on the disk."""
    promised = dict(
        session.execute(select(Disk.datastore_id, func.sum(Disk.size_mib)).group_by(Disk.datastore_id)).all()
    )
    counted = dict(
        session.execute(
            select(HostDatastore.datastore_id, func.count()).group_by(HostDatastore.datastore_id)
        ).all()
    )
    return [
        {
            "id": d.id,
            "name": d.name,
            "uri": d.uri,
            "disk_format": d.disk_format,
            "capacity_mib": d.capacity_mib,
            "free_mib": d.free_mib,
            "allocated_mib": promised.get(d.id, 0),
            "hosts": counted.get(d.id, 0),
            "observed_at": d.observed_at,
        }
        for d in session.scalars(select(Datastore).order_by(Datastore.name))
    ]


def images(session: Session) -> Rows:
    disks = dict(session.execute(select(Disk.image_id, func.count()).group_by(Disk.image_id)).all())
    query = select(Image, Datastore.name).join(Datastore).order_by(Image.name)
    return [
        {
            "id": i.id,
            "name": i.name,
            "state": i.state,
            "datastore": datastore,
            "file": i.file,
            "format": i.format,
            "virtual_size_mib": i.virtual_size_mib,
            "size_mib": i.size_mib,
            "sha256": i.sha256,
            "disks": disks.get(i.id, 0),
            "created_at": i.created_at,
        }
        for i, datastore in session.execute(query)
    ]


def templates(session: Session) -> Rows:
    vnets = dict(session.execute(select(Vnet.id, Vnet.name)).all())
    query = select(Template, Image.name).join(Image).order_by(Template.name)
    return [
        {
            "id": t.id,
            "name": t.name,
            "image": image,
            "vcpu": t.vcpu,
            "memory_mib": t.memory_mib,
            "disk_mib": t.disk_mib,
            "vnets": [vnets[i] for i in t.vnet_ids],
            "ssh_keys": len(t.ssh_keys),
            "start_script": bool(t.start_script),
            "created_at": t.created_at,
        }
        for t, image in session.execute(query)
    ]


def vnets(session: Session) -> Rows:
    leases = dict(session.execute(select(Nic.vnet_id, func.count()).group_by(Nic.vnet_id)).all())
    return [
        {
            "id": v.id,
            "name": v.name,
            "uri": v.uri,
            "vlan_id": v.vlan_id,
            "cidr": v.cidr,
            "gateway": v.gateway,
            "first_address": v.first_address,
            "last_address": v.last_address,
            "dns": v.dns,
            "leases": leases.get(v.id, 0),
            "created_at": v.created_at,
        }
        for v in session.scalars(select(Vnet).order_by(Vnet.name))
    ]


def leases(session: Session, vnet: str) -> Rows:
    query = (
        select(Nic.address, Nic.mac, Vm.name, Tenant.name)
        .join(Vnet, Vnet.id == Nic.vnet_id)
        .join(Vm, Vm.id == Nic.vm_id)
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .where(Vnet.name == vnet)
    )
    rows = [
        {"address": address, "mac": mac, "vm": name, "tenant": tenant}
        for address, mac, name, tenant in session.execute(query)
    ]
    return sorted(rows, key=lambda r: [int(part) for part in r["address"].split(".")])


def tenants(session: Session) -> Rows:
    rows = []
    for t in session.scalars(select(Tenant).order_by(Tenant.name)):
        use = tenant_use(session, t.id)
        rows.append(
            {
                "id": t.id,
                "name": t.name,
                "vms": use.vms,
                "max_vms": t.max_vms,
                "vcpu": use.vcpu,
                "max_vcpu": t.max_vcpu,
                "memory_mib": use.memory_mib,
                "max_memory_mib": t.max_memory_mib,
                "disk_mib": use.disk_mib,
                "max_disk_mib": t.max_disk_mib,
                "created_at": t.created_at,
            }
        )
    return rows


def groups(session: Session) -> Rows:
    members: dict[str | None, list[str]] = {}
    query = select(Vm.group_id, Vm.name).where(Vm.state.in_(HOLDING), Vm.group_id.is_not(None))
    for group_id, name in session.execute(query.order_by(Vm.name)):
        members.setdefault(group_id, []).append(name)
    return [
        {"id": g.id, "name": g.name, "policy": g.policy, "vms": members.get(g.id, [])}
        for g in session.scalars(select(PlacementGroup).order_by(PlacementGroup.name))
    ]


def operations(
    session: Session,
    *,
    limit: int | None = 50,
    open_only: bool = False,
    parent_id: str | None = None,
    object_id: str | None = None,
) -> Rows:
    """The newest first; all where `limit` is None."""
    child = aliased(Operation)
    query = select(
        Operation, select(func.count()).where(child.parent_id == Operation.id).scalar_subquery()
    ).order_by(Operation.started_at.desc(), Operation.id)
    if open_only:
        query = query.where(Operation.finished_at.is_(None))
    if parent_id:
        query = query.where(Operation.parent_id == parent_id)
    if object_id:
        query = query.where(Operation.object_id == object_id)
    return [
        {
            "id": o.id,
            "kind": o.kind,
            "object": o.object,
            "object_id": o.object_id,
            "requested_by": o.requested_by,
            "flow_run_id": o.flow_run_id,
            "started_at": o.started_at,
            "finished_at": o.finished_at,
            "outcome": o.outcome,
            "error": o.error,
            "parent_id": o.parent_id,
            "children": children,
            "attempts": o.attempts,
            "heartbeat_at": o.heartbeat_at,
        }
        for o, children in session.execute(query.limit(limit))
    ]
