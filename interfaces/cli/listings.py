"""What the reading commands show, with the stable keys of docs/cli.md. Plain selects: rows, not objects."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from vdc.access import visible
from vdc.claims.snapshot_age import age_limit, due_at
from vdc.schema import (
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Nic,
    Operation,
    PlacementGroup,
    Snapshot,
    Template,
    Tenant,
    Vm,
    Vnet,
    Volume,
)
from vdc.settings import load
from vdc.states import HOLDING
from vdc.storage import rooms, summed
from vdc.usage import host_loads, tenant_use

Rows = list[dict[str, Any]]


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
        for host in session.scalars(select(Host).where(visible(session, Host)).order_by(Host.name))
    ]


def datastores(session: Session) -> Rows:
    """`allocated_mib` is what machines and kept disks were promised; overlays take less on the disk.

    Of one that each host has for itself the sizes are sums; `parts` has each host's.
    """
    query = select(Datastore).where(visible(session, Datastore)).order_by(Datastore.name)
    stores = session.scalars(query).all()
    parts = rooms(session, stores)
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
            "shared": d.shared,
            "overcommit": d.overcommit,
            **summed(parts[d.id]),
            "hosts": counted.get(d.id, 0),
            "parts": [{"host": part.host, **summed([part])} for part in parts[d.id] if part.host],
        }
        for d in stores
    ]


def images(session: Session) -> Rows:
    disks = dict(session.execute(select(Disk.image_id, func.count()).group_by(Disk.image_id)).all())
    templates = dict(
        session.execute(select(Template.image_id, func.count()).group_by(Template.image_id)).all()
    )
    query = select(Image, Datastore.name, Tenant.name).join(Datastore, Datastore.id == Image.datastore_id)
    query = query.outerjoin(Tenant, Tenant.id == Image.tenant_id).order_by(Image.name)
    query = query.where(visible(session, Image))
    return [
        {
            "id": i.id,
            "name": i.name,
            "state": i.state,
            "tenant": tenant,
            "published": i.published,
            "datastore": datastore,
            "file": i.file,
            "format": i.format,
            "virtual_size_mib": i.virtual_size_mib,
            "size_mib": i.size_mib,
            "iso": i.iso,
            "persistent": i.persistent,
            "sha256": i.sha256,
            "disks": disks.get(i.id, 0),
            "templates": templates.get(i.id, 0),
            "created_at": i.created_at,
        }
        for i, datastore, tenant in session.execute(query)
    ]


def templates(session: Session) -> Rows:
    vnets = dict(session.execute(select(Vnet.id, Vnet.name)).all())
    query = select(Template, Image.name).join(Image).where(visible(session, Template)).order_by(Template.name)
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
            "public": v.public,
            "leases": leases.get(v.id, 0),
            "created_at": v.created_at,
        }
        for v in session.scalars(select(Vnet).where(visible(session, Vnet)).order_by(Vnet.name))
    ]


def leases(session: Session, vnet: str) -> Rows:
    query = (
        select(Nic.address, Nic.mac, Vm.name, Tenant.name)
        .join(Vnet, Vnet.id == Nic.vnet_id)
        .join(Vm, Vm.id == Nic.vm_id)
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .where(Vnet.name == vnet, visible(session, Vm))
    )
    rows = [
        {"address": address, "mac": mac, "vm": name, "tenant": tenant}
        for address, mac, name, tenant in session.execute(query)
    ]
    return sorted(rows, key=lambda r: [int(part) for part in r["address"].split(".")])


def tenants(session: Session) -> Rows:
    rows = []
    query = select(Tenant).where(visible(session, Tenant), Tenant.state != "gone").order_by(Tenant.name)
    for t in session.scalars(query):
        use = tenant_use(session, t.id)
        rows.append(
            {
                "id": t.id,
                "name": t.name,
                "state": t.state,
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


def volumes(session: Session, tenant: str = "") -> Rows:
    """Disks that were attached to machines, by name; `vm` is null of one that is kept."""
    query = (
        select(Volume, Tenant.name, Datastore.name, Vm.name)
        .join(Tenant, Tenant.id == Volume.tenant_id)
        .join(Datastore, Datastore.id == Volume.datastore_id)
        .outerjoin(Disk, Disk.volume_id == Volume.id)
        .outerjoin(Vm, Vm.id == Disk.vm_id)
        .where(Volume.live_name.is_not(None), visible(session, Volume))
        .order_by(Volume.name, Tenant.name)
    )
    if tenant:
        query = query.where(Tenant.name == tenant)
    return [
        {
            "id": v.id,
            "name": v.name,
            "tenant": of,
            "state": v.state,
            "vm": vm,
            "datastore": datastore,
            "file": v.file,
            "format": v.format,
            "size_mib": v.size_mib,
            "created_at": v.created_at,
        }
        for v, of, datastore, vm in session.execute(query)
    ]


def groups(session: Session) -> Rows:
    members: dict[str | None, list[str]] = {}
    query = select(Vm.group_id, Vm.name).where(Vm.state.in_(HOLDING), Vm.group_id.is_not(None))
    for group_id, name in session.execute(query.order_by(Vm.name)):
        members.setdefault(group_id, []).append(name)
    return [
        {"id": g.id, "name": g.name, "policy": g.policy, "vms": members.get(g.id, [])}
        for g in session.scalars(
            select(PlacementGroup).where(visible(session, PlacementGroup)).order_by(PlacementGroup.name)
        )
    ]


def snapshots(session: Session, vm_id: str) -> Rows:
    """The oldest first."""
    rows = session.scalars(
        select(Snapshot).where(Snapshot.vm_id == vm_id).order_by(Snapshot.created_at, Snapshot.label)
    ).all()
    labels = {row.id: row.label for row in rows}
    limit = age_limit(session, session.get_one(Vm, vm_id), load().snapshot_days)
    return [
        {
            "id": row.id,
            "label": row.label,
            "kind": row.kind,
            "parent": labels.get(row.parent_id or ""),
            "parent_id": row.parent_id,
            "current": row.current,
            "ready": row.ready,
            "size_mib": row.size_mib,
            "created_at": row.created_at,
            "expires_at": due_at(row, limit)[0],
        }
        for row in rows
    ]


def expiry(session: Session, snapshot_id: str) -> datetime | None:
    """When a snapshot is to go; None: when somebody deletes it."""
    row = session.get_one(Snapshot, snapshot_id)
    return due_at(row, age_limit(session, session.get_one(Vm, row.vm_id), load().snapshot_days))[0]


def operations(
    session: Session,
    *,
    limit: int | None = 50,
    open_only: bool = False,
    parent_id: str | None = None,
    object_id: str | None = None,
    operation_id: str | None = None,
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
        # Whoever may see the object may know what was done to it, whoever asked for that.
        query = query.where(Operation.object_id == object_id)
    else:
        query = query.where(visible(session, Operation))
    if operation_id:
        query = query.where(Operation.id == operation_id)
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
            "result": o.result,
            "parent_id": o.parent_id,
            "children": children,
            "attempts": o.attempts,
            "heartbeat_at": o.heartbeat_at,
        }
        for o, children in session.execute(query.limit(limit))
    ]
