"""The one query that feeds usage and bills: events of machines and images as rows of an event frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from vdc.months import Window
from vdc.schema import UsageEvent, Vm, Volume


def event_rows(session: Session, tenant_ids: Sequence[str], window: Window) -> Iterator[tuple[Any, ...]]:
    """See reports.usage.read_events."""
    subject = func.coalesce(UsageEvent.vm_id, UsageEvent.volume_id)
    gone = select(subject).where(UsageEvent.kind == "terminated", UsageEvent.at <= window.begin)
    theirs = select(subject).where(UsageEvent.tenant_id.in_(tenant_ids))
    columns = (
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
    # Of traffic whose machine it was then, not whose it was when the samples were counted.
    owner = case((UsageEvent.kind == "traffic", ""), else_=UsageEvent.tenant_id)
    machines = (
        select(owner, subject, func.coalesce(Vm.name, "disk " + Volume.name), *columns)
        .outerjoin(Vm, Vm.id == UsageEvent.vm_id)
        .outerjoin(Volume, Volume.id == UsageEvent.volume_id)
        .where(subject.in_(theirs.where(subject.is_not(None))), UsageEvent.at < window.end)
        .where(subject.not_in(gone.where(subject.is_not(None))))
    )
    images = select(UsageEvent.tenant_id, UsageEvent.image_id, UsageEvent.image, *columns).where(
        UsageEvent.image_id.is_not(None), UsageEvent.tenant_id.in_(tenant_ids), UsageEvent.at < window.end
    )
    for query in (machines, images):
        for row in session.execute(query):
            yield tuple(row)
