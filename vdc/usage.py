"""What is in use, derived from the rows of live machines inside the transaction that asks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, case, false, func, or_, select
from sqlalchemy.orm import Session

from vdc.errors import QuotaExceeded
from vdc.placement import Group, HostLoad
from vdc.schema import (
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Nic,
    PlacementGroup,
    Snapshot,
    Tenant,
    User,
    Vm,
    Vnet,
    Volume,
)
from vdc.states import HOLDING, Desired, VmState
from vdc.storage import Room, rooms


@dataclass(frozen=True, slots=True)
class Use:
    """Machines and their sizes; what a tenant or a user holds, or what a request adds."""

    vms: int = 0
    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    running_vcpu: int = 0
    """Of machines that run, are paused, or are about to be either."""
    snapshots: int = 0
    images: int = 0
    addresses: int = 0
    """Of the site's networks."""


VCPU = case((Vm.next_vcpu > Vm.vcpu, Vm.next_vcpu), else_=Vm.vcpu)
MEMORY_MIB = case((Vm.next_memory_mib > Vm.memory_mib, Vm.next_memory_mib), else_=Vm.memory_mib)
"""What a machine holds: one that shrinks frees it once that is done, one that grows has it before."""

QUOTA_WORDS = (
    ("vms", "machines"),
    ("vcpu", "vCPU"),
    ("running_vcpu", "running vCPU"),
    ("memory_mib", "MiB memory"),
    ("disk_mib", "MiB disk"),
    ("snapshots", "snapshots"),
    ("images", "images"),
    ("addresses", "addresses"),
)

VM_WORDS = (("vcpu", "vCPU"), ("memory_mib", "MiB memory"), ("disk_mib", "MiB disk"))

_ON = (Desired.RUNNING, Desired.PAUSED)
RUNNING = or_(
    Vm.state.in_((VmState.RUNNING, VmState.PAUSED)), and_(Vm.state != VmState.HELD, Vm.desired.in_(_ON))
)


def tenant_use(session: Session, tenant_id: str) -> Use:
    return _use(
        session, Vm.tenant_id == tenant_id, Image.tenant_id == tenant_id, Volume.tenant_id == tenant_id
    )


def user_use(session: Session, user_id: str) -> Use:
    return _use(session, Vm.owner_id == user_id, Image.owner_id == user_id, Volume.owner_id == user_id)


def vm_use(session: Session, vm_id: str) -> Use:
    """What one machine holds, disks that are attached included."""
    return _use(session, Vm.id == vm_id, false(), false())


def _use(session: Session, vms_of: Any, images_of: Any, volumes_of: Any) -> Use:
    live = and_(vms_of, Vm.state.in_(HOLDING))
    vms, vcpu, memory, running = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(VCPU), 0),
            func.coalesce(func.sum(MEMORY_MIB), 0),
            func.coalesce(func.sum(case((RUNNING, VCPU), else_=0)), 0),
        ).where(live)
    ).one()
    disk = session.scalar(
        select(func.coalesce(func.sum(Disk.size_mib), 0)).join(Vm, Vm.id == Disk.vm_id).where(live)
    )
    # One that is attached is among the machine's.
    kept = session.scalar(
        select(func.coalesce(func.sum(Volume.size_mib), 0)).where(
            volumes_of, Volume.state.in_(("kept", "removing"))
        )
    )
    snapshots = select(func.count(Snapshot.id)).join(Vm, Vm.id == Snapshot.vm_id).where(live)
    addresses = select(func.count(Nic.id)).join(Vm, Vm.id == Nic.vm_id).join(Vnet, Vnet.id == Nic.vnet_id)
    return Use(
        vms,
        int(vcpu),
        int(memory),
        int(disk or 0) + int(kept or 0),
        int(running),
        session.scalar(snapshots) or 0,
        session.scalar(select(func.count(Image.id)).where(images_of)) or 0,
        session.scalar(addresses.where(live, Vnet.tenant_id.is_(None))) or 0,
    )


def check_quota(session: Session, tenant: Tenant, adding: Use, owner_id: str | None = None) -> list[str]:
    """What would be left to the tenant, and to the user whose it is, a phrase a limit.

    Raises QuotaExceeded with the numbers of each limit that would be passed.
    """
    left = _check(tenant, f"Tenant {tenant.name}", lambda: tenant_use(session, tenant.id), adding, "")
    return left + check_user_quota(session, adding, owner_id)


def check_user_quota(session: Session, adding: Use, owner_id: str | None) -> list[str]:
    """As `check_quota`, of what passes from one user of a tenant to another."""
    user = session.get(User, owner_id) if owner_id else None
    if user is None:
        return []
    whose = f" of user {user.name}"
    return _check(user, f"User {user.name}", lambda: user_use(session, user.id), adding, whose)


def check_vm_limits(session: Session, tenant: Tenant, size: Use, owner_id: str | None = None) -> None:
    """Raise QuotaExceeded where one machine may not be so large."""
    user = session.get(User, owner_id) if owner_id else None
    holders: list[tuple[str, Any]] = [(f"tenant {tenant.name}", tenant)]
    holders += [(f"user {user.name}", user)] if user else []
    for who, row in holders:
        for name, word in VM_WORDS:
            limit, asked = getattr(row, f"vm_max_{name}"), getattr(size, name)
            if limit is not None and asked > limit:
                raise QuotaExceeded(
                    f"A machine of {who} may have {limit} {word} at most, and {asked} are asked."
                )


def check_running(session: Session, vms: Sequence[Vm]) -> None:
    """Raise QuotaExceeded where these machines, which do not run, may not all run."""
    adding: dict[tuple[str, str | None], int] = {}
    for vm in vms:
        owners = {(vm.tenant_id, None), (vm.tenant_id, vm.owner_id)}
        for owner in owners:
            adding[owner] = adding.get(owner, 0) + max(vm.vcpu, vm.next_vcpu or 0)
    for (tenant_id, owner_id), vcpu in adding.items():
        check_quota(session, session.get_one(Tenant, tenant_id), Use(running_vcpu=vcpu), owner_id)


def _check(row: Any, who: str, using: Callable[[], Use], adding: Use, whose: str) -> list[str]:
    """`using` is asked only if there is a limit."""
    limits = [(name, word, getattr(row, f"max_{name}")) for name, word in QUOTA_WORDS]
    limits = [(name, word, limit) for name, word, limit in limits if limit is not None]
    if not limits:
        return []
    use = using()
    left, passed = [], []
    for name, word, limit in limits:
        used, more = getattr(use, name), getattr(adding, name)
        if more and used + more > limit:
            passed.append(f"{used} of {limit} {word} used, {more} more asked")
        else:
            left.append(f"{limit - used - more} of {limit} {word}{whose}")
    if passed:
        raise QuotaExceeded(f"{who} would pass its quota: {'; '.join(passed)}.")
    return left


def group_of(session: Session, group: PlacementGroup, *, without: str = "") -> Group:
    """A placement group as placement needs it: where its members are, or migrate to, but for one machine."""
    rows = session.execute(
        select(Vm.host_id, Vm.target_host_id)
        .where(Vm.group_id == group.id, Vm.state.in_(HOLDING), Vm.id != without)
        .distinct()
    )
    return Group(group.name, group.policy, frozenset(host for row in rows for host in row if host))


def _used(session: Session) -> dict[str | None, Use]:
    """What machines take on each host; one that migrates takes its place on both."""
    used: dict[str | None, Use] = {}
    for host_id in (Vm.host_id, Vm.target_host_id):
        for where, vms, vcpu, memory_mib in session.execute(
            select(host_id, func.count(), func.sum(VCPU), func.sum(MEMORY_MIB))
            .where(Vm.state.in_(HOLDING), host_id.is_not(None))
            .group_by(host_id)
        ):
            before = used.get(where, Use())
            used[where] = Use(before.vms + vms, before.vcpu + int(vcpu), before.memory_mib + int(memory_mib))
    return used


def host_loads(session: Session) -> list[HostLoad]:
    """Every host with what it carries, by name."""
    used = _used(session)
    mounted: dict[str, set[str]] = {}
    own: dict[str, dict[str, Room]] = {}
    stores = session.scalars(select(Datastore).where(Datastore.shared.is_(False))).all()
    for datastore_id, parts in rooms(session, stores).items() if stores else ():
        for part in parts:
            own.setdefault(part.host, {})[datastore_id] = part
    for host_id, datastore_id in session.execute(select(HostDatastore.host_id, HostDatastore.datastore_id)):
        mounted.setdefault(host_id, set()).add(datastore_id)
    loads = []
    for host in session.scalars(select(Host).order_by(Host.name)):
        use = used.get(host.id, Use())
        loads.append(
            HostLoad(
                host_id=host.id,
                name=host.name,
                enabled=host.state == "enabled",
                vcpu=host.vcpu * host.cpu_overcommit,
                memory_mib=(host.memory_mib - host.reserved_memory_mib) * host.memory_overcommit,
                vcpu_used=use.vcpu,
                memory_mib_used=use.memory_mib,
                vms=use.vms,
                load_1m=host.load_1m,
                cpus=host.vcpu,
                datastore_ids=frozenset(mounted.get(host.id, ())),
                networks=frozenset(host.networks),
                labels=host.labels,
                rooms=own.get(host.name, {}),
            )
        )
    return loads
