"""What is in use, derived from the rows of live machines inside the transaction that asks."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from vdc.errors import QuotaExceeded
from vdc.placement import Group, HostLoad
from vdc.schema import Disk, Host, HostDatastore, PlacementGroup, Tenant, Vm
from vdc.states import HOLDING


@dataclass(frozen=True, slots=True)
class Use:
    """Machines and their sizes; what a tenant holds, or what a request adds."""

    vms: int = 0
    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0


VCPU = case((Vm.next_vcpu > Vm.vcpu, Vm.next_vcpu), else_=Vm.vcpu)
MEMORY_MIB = case((Vm.next_memory_mib > Vm.memory_mib, Vm.next_memory_mib), else_=Vm.memory_mib)
"""What a machine holds: one that shrinks frees it once that is done, one that grows has it before."""

QUOTA_WORDS = (("vms", "machines"), ("vcpu", "vCPU"), ("memory_mib", "MiB memory"), ("disk_mib", "MiB disk"))


def tenant_use(session: Session, tenant_id: str) -> Use:
    vms, vcpu, memory = session.execute(
        select(func.count(), func.coalesce(func.sum(VCPU), 0), func.coalesce(func.sum(MEMORY_MIB), 0)).where(
            Vm.tenant_id == tenant_id, Vm.state.in_(HOLDING)
        )
    ).one()
    disk = session.scalar(
        select(func.coalesce(func.sum(Disk.size_mib), 0))
        .join(Vm, Vm.id == Disk.vm_id)
        .where(Vm.tenant_id == tenant_id, Vm.state.in_(HOLDING))
    )
    return Use(vms, int(vcpu), int(memory), int(disk or 0))


def check_quota(session: Session, tenant: Tenant, adding: Use) -> list[str]:
    """What would be left, a phrase a limit.

    Raises QuotaExceeded with the numbers of each limit that would be passed.
    """
    use = tenant_use(session, tenant.id)
    left, passed = [], []
    for name, word in QUOTA_WORDS:
        limit = getattr(tenant, f"max_{name}")
        if limit is None:
            continue
        used, more = getattr(use, name), getattr(adding, name)
        if more and used + more > limit:
            passed.append(f"{used} of {limit} {word} used, {more} more asked")
        else:
            left.append(f"{limit - used - more} of {limit} {word}")
    if passed:
        raise QuotaExceeded(f"Tenant {tenant.name} would pass its quota: {'; '.join(passed)}.")
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
            )
        )
    return loads
