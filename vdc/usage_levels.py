"""What machines, kept disks and images are charged by now: their usage events, folded.

In plain Python, for the few that a plan is about; bills do the same for all at once (reports/levels.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.event_kinds import BECOMES, ENDING, MAKING, OTHER, RANK, TRAFFIC
from vdc.pricing import Level
from vdc.schema import UsageEvent

SIZES = ("vcpu", "memory_mib", "disk_mib", "snapshot_mib", "addresses")


def vm_levels(session: Session, ids: Sequence[str]) -> dict[str, Level]:
    """By id; not of those that are not charged: never made, or gone."""
    return _levels(session, UsageEvent.vm_id, ids)


def volume_levels(session: Session, ids: Sequence[str]) -> dict[str, Level]:
    """As vm_levels: of disks that are kept, or were before a machine had them (these of size 0)."""
    return _levels(session, UsageEvent.volume_id, ids)


def image_levels(session: Session, ids: Sequence[str]) -> dict[str, Level]:
    """As vm_levels: of images that are a tenant's."""
    return _levels(session, UsageEvent.image_id, ids)


def _levels(session: Session, subject: Any, ids: Sequence[str]) -> dict[str, Level]:
    session.flush()
    query = select(subject, UsageEvent).where(subject.in_(ids), UsageEvent.kind != TRAFFIC)
    events: dict[str, list[UsageEvent]] = {}
    for of, event in session.execute(query):
        events.setdefault(of, []).append(event)
    folded = {of: _folded(told) for of, told in events.items()}
    return {of: level for of, level in folded.items() if level is not None}


def _order(event: UsageEvent) -> tuple[Any, ...]:
    """Of what happened at the same instant and tells as much, the one that tells more comes last."""
    sizes = [-1 if (size := getattr(event, name)) is None else size for name in SIZES]
    return event.at, RANK.get(event.kind, OTHER), event.kind, *sizes


def _folded(events: Iterable[UsageEvent]) -> Level | None:
    level, made = Level(state="stopped"), False
    for event in sorted(events, key=_order):
        told = {name: size for name in SIZES if (size := getattr(event, name)) is not None}
        state = BECOMES.get(event.kind, level.state)
        level = replace(level, **told, state=state, provider=event.provider, hourly_price=event.hourly_price)
        if event.image:
            level = replace(level, image=event.image)
        made = (made or event.kind in MAKING) and event.kind not in ENDING
    return level if made else None
