"""What is kept and not used: machines that are off or idle, disks, images, snapshots; and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reports.report import Report, Section
from vdc.access import check
from vdc.pricing import per_hour, per_month
from vdc.schema import Cdrom, Disk, Image, Sample, Snapshot, Template, Tenant, UsageEvent, Vm, Volume
from vdc.states import VmState
from vdc.tariff import Tariff

DAYS = 14
IDLE_CPU_PERCENT = 1.0
IDLE_BYTES_A_DAY = 2**20
IDLE = (
    f"Less than {IDLE_CPU_PERCENT:g}% of their CPUs and 1 MiB of traffic a day. One that was not sampled all "
    "the time is not judged: the flow meter samples, and the setting sample_retention_days keeps."
)
OLD = "Old ones; whether one is still wanted, its tenant knows."
OFF = (VmState.STOPPED, VmState.SUSPENDED, VmState.HELD)


def machines_off(session: Session, prices: Tariff, now: datetime, days: int = DAYS) -> pd.DataFrame:
    """A row a machine that has been off for so many days.

    Columns: `machine tenant state since days disk_mib a_month`.
    """
    since = dict(
        session.execute(select(UsageEvent.vm_id, func.max(UsageEvent.at)).group_by(UsageEvent.vm_id)).all()
    )
    rows = []
    for vm, tenant, disk_mib in _machines(session, OFF):
        last = since.get(vm.id) or vm.created_at
        if now - last >= timedelta(days=days):
            rows.append(
                {
                    "machine": vm.name,
                    "tenant": tenant,
                    "state": vm.state,
                    "since": last,
                    "days": (now - last).days,
                    "disk_mib": disk_mib,
                    "a_month": per_month(per_hour(prices, 0, 0, disk_mib)),
                }
            )
    return _sorted(rows, "machine tenant state since days disk_mib a_month")


def machines_idle(session: Session, prices: Tariff, now: datetime, days: int = DAYS) -> pd.DataFrame:
    """A row a machine that ran through so many days and did next to nothing, by its samples.

    Columns: `machine tenant vcpu memory_mib cpu_percent bytes_a_day a_month`. One that was not sampled all
    that time is not judged.
    """
    begin = now - timedelta(days=days)
    samples = pd.DataFrame(
        session.execute(
            select(Sample.vm_id, Sample.at, Sample.cpu_s, Sample.net_rx_bytes, Sample.net_tx_bytes)
            .where(Sample.at >= begin, Sample.at <= now)
            .order_by(Sample.vm_id, Sample.at)
        ).all(),
        columns=["vm_id", "at", "cpu_s", "rx", "tx"],
    )
    used = {vm_id: _use(group) for vm_id, group in samples.groupby("vm_id")}
    rows = []
    for vm, tenant, disk_mib in _machines(session, (VmState.RUNNING,)):
        found = used.get(vm.id)
        if found is None or found["seconds"] < 0.9 * days * 86_400:
            continue
        cpu_percent = 100 * found["cpu_s"] / found["seconds"] / vm.vcpu
        bytes_a_day = found["bytes"] / found["seconds"] * 86_400
        if cpu_percent < IDLE_CPU_PERCENT and bytes_a_day < IDLE_BYTES_A_DAY:
            rows.append(
                {
                    "machine": vm.name,
                    "tenant": tenant,
                    "vcpu": vm.vcpu,
                    "memory_mib": vm.memory_mib,
                    "cpu_percent": round(cpu_percent, 3),
                    "bytes_a_day": int(bytes_a_day),
                    "a_month": per_month(per_hour(prices, vm.vcpu, vm.memory_mib, disk_mib)),
                }
            )
    return _sorted(rows, "machine tenant vcpu memory_mib cpu_percent bytes_a_day a_month")


def disks(session: Session, prices: Tariff, now: datetime, days: int = DAYS) -> pd.DataFrame:
    """A row a disk that no machine has had for so many days: `disk tenant size_mib since days a_month`."""
    kept_at = select(UsageEvent.volume_id, func.max(UsageEvent.at).label("at"))
    kept_at = kept_at.where(UsageEvent.volume_id.is_not(None)).group_by(UsageEvent.volume_id).subquery()
    query = (
        select(Volume.name, Tenant.name, Volume.size_mib, func.coalesce(kept_at.c.at, Volume.created_at))
        .join(Tenant, Tenant.id == Volume.tenant_id)
        .outerjoin(kept_at, kept_at.c.volume_id == Volume.id)
        .where(Volume.state == "kept")
    )
    rows = [
        {
            "disk": name,
            "tenant": tenant,
            "size_mib": size_mib,
            "since": since,
            "days": (now - since).days,
            "a_month": per_month(per_hour(prices, 0, 0, size_mib)),
        }
        for name, tenant, size_mib, since in session.execute(query)
        if now - since >= timedelta(days=days)
    ]
    return _sorted(rows, "disk tenant size_mib since days a_month")


def images(session: Session, now: datetime, days: int = DAYS) -> pd.DataFrame:
    """A row an image of which no disk and no template was made, and that is in no drive.

    Columns: `image tenant size_mib since days`.
    """
    used = {i for table in (Disk, Cdrom, Template) for i in session.scalars(select(table.image_id))}
    query = select(Image, Tenant.name).outerjoin(Tenant, Tenant.id == Image.tenant_id).order_by(Image.name)
    return pd.DataFrame(
        [
            {
                "image": image.name,
                "tenant": tenant,
                "size_mib": image.size_mib,
                "since": image.created_at,
                "days": (now - image.created_at).days,
            }
            for image, tenant in session.execute(query)
            if image.id not in used and now - image.created_at >= timedelta(days=days)
        ],
        columns=["image", "tenant", "size_mib", "since", "days"],
    )


def snapshots(session: Session, now: datetime, days: int = DAYS) -> pd.DataFrame:
    """A row a snapshot that is older: `snapshot machine tenant kind size_mib since days`."""
    query = (
        select(Snapshot, Vm.name, Tenant.name)
        .join(Vm, Vm.id == Snapshot.vm_id)
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .order_by(Snapshot.created_at)
    )
    return pd.DataFrame(
        [
            {
                "snapshot": snapshot.label,
                "machine": vm,
                "tenant": tenant,
                "kind": snapshot.kind,
                "size_mib": snapshot.size_mib,
                "since": snapshot.created_at,
                "days": (now - snapshot.created_at).days,
            }
            for snapshot, vm, tenant in session.execute(query)
            if now - snapshot.created_at >= timedelta(days=days)
        ],
        columns=["snapshot", "machine", "tenant", "kind", "size_mib", "since", "days"],
    )


def unused(session: Session, now: datetime, prices: Tariff, days: int = DAYS) -> Report:
    """The report; `prices` are the site's list prices."""
    check(session, "report.see")
    off, idle = machines_off(session, prices, now, days), machines_idle(session, prices, now, days)
    kept = disks(session, prices, now, days)
    old_images, old_snapshots = images(session, now, days), snapshots(session, now, days)
    disk_mib = int(off["disk_mib"].sum())
    words = [
        f"Machines that have been off for {days} days or more: {len(off)}, with {disk_mib:,} MiB of disk.",
        f"Machines that ran through {days} days and did next to nothing: {len(idle)}.",
        f"Disks that no machine has had for {days} days: {len(kept)}, {int(kept['size_mib'].sum()):,} MiB.",
        f"Images unused for {days} days: {len(old_images)}; older snapshots: {len(old_snapshots)}.",
    ]
    a_month = f"A month: of their disks, at list prices, in {prices.currency}."
    return Report(
        "unused",
        "Unused machines and disks",
        now,
        words,
        [
            Section("machines_off", "Machines that are off", off, "There is none.", a_month),
            Section("machines_idle", "Machines that are idle", idle, "There is none.", IDLE),
            Section("disks", "Kept disks", kept, "There is none.", a_month),
            Section("images", "Images", old_images, "There is none."),
            Section("snapshots", "Snapshots", old_snapshots, "There is none.", OLD),
        ],
    )


def _machines(session: Session, states: Iterable[VmState]) -> list[tuple[Vm, str, int]]:
    size = func.coalesce(func.sum(Disk.size_mib), 0)
    query = (
        select(Vm, Tenant.name, size)
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .outerjoin(Disk, Disk.vm_id == Vm.id)
        .where(Vm.state.in_(list(states)))
        .group_by(Vm.id, Tenant.name)
    )
    return [(vm, tenant, int(disk_mib)) for vm, tenant, disk_mib in session.execute(query)]


def _use(of: pd.DataFrame) -> dict[str, float]:
    """What counters rose by: they begin at zero with each start of the machine."""
    seconds = (of["at"].iloc[-1] - of["at"].iloc[0]).total_seconds()
    return {"seconds": seconds, "cpu_s": _rise(of["cpu_s"]), "bytes": _rise(of["rx"]) + _rise(of["tx"])}


def _rise(counter: pd.Series) -> float:
    step = counter.diff().fillna(0.0)
    return float(step.where(step >= 0, counter).sum())


def _sorted(rows: list[dict[str, Any]], columns: str) -> pd.DataFrame:
    """The dearest first."""
    names = columns.split()
    rows.sort(key=lambda row: (-row["a_month"], row[names[0]]))
    return pd.DataFrame(rows, columns=names)
