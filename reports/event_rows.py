"""The one query that feeds usage and bills: events of machines and images as rows of an event frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.months import Window
from vdc.schema import UsageEvent, Vm


def event_rows(session: Session, tenant_ids: Sequence[str], window: Window) -> Iterator[tuple[Any, ...]]:
    """See reports.usage.read_events."""
    gone = select(UsageEvent.vm_id).where(UsageEvent.kind == "terminated", UsageEvent.at <= window.begin)
    theirs = select(UsageEvent.vm_id).where(UsageEvent.tenant_id.in_(tenant_ids))
    query = (
        select(
            UsageEvent.tenant_id,
            UsageEvent.vm_id,
            Vm.name,
            UsageEvent.kind,
            UsageEvent.at,
            UsageEvent.vcpu,
            UsageEvent.memory_mib,
            UsageEvent.disk_mib,
            UsageEvent.provider,
            UsageEvent.hourly_price,
        )
        .join(Vm, Vm.id == UsageEvent.vm_id)
        .where(UsageEvent.vm_id.in_(theirs), UsageEvent.at < window.end)
        .where(UsageEvent.vm_id.not_in(gone))
    )
    for row in session.execute(query):
        yield tuple(row)
