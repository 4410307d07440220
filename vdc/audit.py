"""Who did what to which object, when, with what outcome: the journal of operations, and every refusal."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from vdc.access import Actor, Role, asking, visible
from vdc.errors import Refused
from vdc.schema import Operation, Refusal

MAX_OBJECT = 255

_NAMING = ("vms", "vm", "image", "host", "name", "tenant", "file", "month")
"""Fields of a request that say what it is about, the most telling first."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was asked for: `vm terminate` of `web-1,web-2`."""

    asked: str
    object: str
    flow_run_id: str | None = None


def objects_of(request: object) -> str:
    """What a flow's request is about: `web-1,web-2`."""
    for field in _NAMING:
        if named := getattr(request, field, None):
            return ",".join(named) if isinstance(named, list) else str(named)
    return ""


def record_refusal(session: Session, actor: Actor, attempt: Attempt, error: Refused) -> None:
    """Write down what was refused; the session is another than the one that was rolled back."""
    session.add(
        Refusal(
            requested_by=actor.name,
            user_id=actor.user_id or None,
            tenant_id=actor.tenant_id or None,
            asked=attempt.asked[:60],
            object=attempt.object[:MAX_OBJECT],
            kind=type(error).__name__,
            error=str(error),
            flow_run_id=attempt.flow_run_id,
        )
    )


def read(
    session: Session,
    *,
    user: str = "",
    object_name: str = "",
    since: datetime | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """What was done and what was refused, the newest first, with the keys of `vdc audit`.

    Of these, who asks sees what concerns the own tenant, or was asked by them.
    """
    rows = _operations(session, user, object_name, since, limit)
    rows += _refusals(session, user, object_name, since, limit)
    rows.sort(key=lambda row: row["at"], reverse=True)
    return rows[:limit]


def _operations(
    session: Session, user: str, object_name: str, since: datetime | None, limit: int | None
) -> list[dict[str, Any]]:
    query = select(Operation).where(visible(session, Operation)).order_by(Operation.started_at.desc())
    if user:
        query = query.where(Operation.requested_by == user)
    if since:
        query = query.where(Operation.started_at >= since)
    if object_name:
        named = Operation.object.endswith(f"/{object_name}", autoescape=True)
        query = query.where(or_(Operation.object == object_name, named, Operation.object_id == object_name))
    return [
        {
            "at": o.started_at,
            "who": o.requested_by,
            "what": o.kind,
            "object": o.object,
            "outcome": o.outcome or "open",
            "error": o.error,
            "finished_at": o.finished_at,
            "operation_id": o.id,
            "flow_run_id": o.flow_run_id,
        }
        for o in session.scalars(query.limit(limit))
    ]


def _refusals(
    session: Session, user: str, object_name: str, since: datetime | None, limit: int | None
) -> list[dict[str, Any]]:
    query = select(Refusal).order_by(Refusal.at.desc())
    actor = asking(session)
    if actor.role is Role.TENANT_ADMINISTRATOR:
        query = query.where(Refusal.tenant_id == actor.tenant_id)
    elif actor.role is Role.USER:
        query = query.where(Refusal.user_id == actor.user_id)
    if user:
        query = query.where(Refusal.requested_by == user)
    if since:
        query = query.where(Refusal.at >= since)
    if object_name:
        bare = object_name.rpartition("/")[2]
        padded = "," + Refusal.object + ","
        query = query.where(padded.contains(f",{bare},", autoescape=True))
    return [
        {
            "at": r.at,
            "who": r.requested_by,
            "what": r.asked,
            "object": r.object,
            "outcome": "refused",
            "error": f"{r.kind}: {r.error}",
            "finished_at": r.at,
            "operation_id": None,
            "flow_run_id": r.flow_run_id,
        }
        for r in session.scalars(query.limit(limit))
    ]
