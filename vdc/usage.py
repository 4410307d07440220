"""What is in use, derived from the rows of live machines inside the transaction that asks."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc.errors import QuotaExceeded
from vdc.placement import HostLoad
from vdc.schema import Disk, Host, HostDatastore, Tenant, Vm
from vdc.states import HOLDING


@dataclass(frozen=True, slots=True)
class Use:
    """Machines and their sizes; what a tenant holds, or what a request adds."""

    vms: int = 0
    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0


QUOTA_WORDS = (("vms", "machines"), ("vcpu", "vCPU"), ("memory_mib", "MiB memory"), ("disk_mib", "MiB disk"))


def tenant_use(session: Session, tenant_id: str) -> Use:
    vms, vcpu, memory = session.execute(
        select(
            func.count(), func.coalesce(func.sum(Vm.vcpu), 0), func.coalesce(func.sum(Vm.memory_mib), 0)
        ).where(Vm.tenant_id == tenant_id, Vm.state.in_(HOLDING))
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
        if used + more > limit:
            passed.append(f"{used} of {limit} {word} used, {more} more asked")
        else:
            left.append(f"{limit - used - more} of {limit} {word}")
    if passed:
        raise QuotaExceeded(f"Tenant {tenant.name} would pass its quota: {'; '.join(passed)}.")
    return left


def host_loads(session: Session) -> list[HostLoad]:
    """Every host with what it carries, by name."""
    used = {
        row.host_id: row
        for row in session.execute(
            select(
                Vm.host_id,
                func.count().label("vms"),
                func.sum(Vm.vcpu).label("vcpu"),
                func.sum(Vm.memory_mib).label("memory_mib"),
            )
            .where(Vm.state.in_(HOLDING))
            .group_by(Vm.host_id)
        )
    }
    mounted: dict[str, set[str]] = {}
    for host_id, datastore_id in session.execute(select(HostDatastore.host_id, HostDatastore.datastore_id)):
        mounted.setdefault(host_id, set()).add(datastore_id)
    loads = []
    for host in session.scalars(select(Host).order_by(Host.name)):
        row = used.get(host.id)
        loads.append(
            HostLoad(
                host_id=host.id,
                name=host.name,
                enabled=host.state == "enabled",
                vcpu=host.vcpu * host.cpu_overcommit,
                memory_mib=(host.memory_mib - host.reserved_memory_mib) * host.memory_overcommit,
                vcpu_used=int(row.vcpu) if row else 0,
                memory_mib_used=int(row.memory_mib) if row else 0,
                vms=row.vms if row else 0,
                load_1m=host.load_1m,
                cpus=host.vcpu,
                datastore_ids=frozenset(mounted.get(host.id, ())),
                networks=frozenset(host.networks),
                labels=host.labels,
            )
        )
    return loads
