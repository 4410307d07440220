"""The queries that feed usage and bills: events of machines, kept disks and images as rows of a frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, select
from sqlalchemy.orm import Session

from vdc.event_kinds import TRAFFIC
from vdc.months import Window
from vdc.schema import UsageEvent, Vm, Volume

COLUMNS = (
    UsageEvent.kind,
    UsageEvent.at,
    UsageEvent.vcpu,
    UsageEvent.memory_mib,
    UsageEvent.disk_mib,
    UsageEvent.provider,
    UsageEvent.hourly_price,
    UsageEvent.snapshot_mib,
    UsageEvent.addresses,
    UsageEvent.image,
    UsageEvent.bytes,
)


def event_rows(session: Session, tenant_ids: Sequence[str], window: Window) -> Iterator[tuple[Any, ...]]:
    """See reports.usage.read_events."""
    machines = _of(UsageEvent.vm_id, Vm, Vm.name, tenant_ids, window)
    disks = _of(UsageEvent.volume_id, Volume, "disk " + Volume.name, tenant_ids, window)
    images = select(UsageEvent.tenant_id, UsageEvent.image_id, UsageEvent.image, *COLUMNS).where(
        UsageEvent.image_id.is_not(None), UsageEvent.tenant_id.in_(tenant_ids), UsageEvent.at < window.end
    )
    for query in (machines, disks, images):
        for row in session.execute(query):
            yield tuple(row)


def _of(
    subject: Any,
    table: type[Vm | Volume],
    name: ColumnElement[str],
    tenant_ids: Sequence[str],
    window: Window,
) -> Select[Any]:
    """Of what was the tenants' at some time, all events; not of what was gone before the window."""
    some = select(subject).where(subject.is_not(None))
    theirs = some.where(UsageEvent.tenant_id.in_(tenant_ids))
    gone = some.where(UsageEvent.kind == "terminated", UsageEvent.at <= window.begin)
    # Of traffic whose machine it was then, not whose it was when the samples were counted.
    owner = case((UsageEvent.kind == TRAFFIC, ""), else_=UsageEvent.tenant_id)
    return (
        select(owner, subject, name, *COLUMNS)
        .join(table, table.id == subject)
        .where(subject.in_(theirs), subject.not_in(gone), UsageEvent.at < window.end)
    )
