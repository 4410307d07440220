"""Budgets as Prefect events: what an automation waits for."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource
from sqlalchemy.orm import Session

from reports.running import running_month
from tasks.billing import tariff_of
from vdc.billing import read_tenants
from vdc.budgets import Alert, Spent
from vdc.errors import Unready
from vdc.schema import utc_now

EVENT = "vdc.budget.reached"
TIMEOUT_S = 30.0


def read_spent(session: Session) -> list[Spent]:
    """What each tenant that has a budget spent in its running month, by the site's own tariff."""
    rows = running_month(session, read_tenants(session), tariff_of(""), utc_now())
    return [
        Spent(row["tenant"], row["month"], row["cost"], row["budget"], row["currency"])
        for row in rows
        if row["budget"] is not None
    ]


def emit(alerts: Sequence[Alert]) -> None:
    """Send an event for each, and wait until the server has them.

    Not by `emit_event`, which puts them in a queue and says nothing of what became of them: what is not
    surely told is told again, under the same id. Raises Unready.
    """
    if not alerts:
        return
    body = [_event(alert).model_dump(mode="json") for alert in alerts]
    try:
        with get_client(sync_client=True) as client:
            client._client.post("/events", json=body, timeout=TIMEOUT_S).raise_for_status()
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise Unready(
            f"Prefect did not take alerts of budgets ({len(alerts)}): {reason}. They are told next time."
        ) from error


def _event(alert: Alert) -> Event:
    return Event(
        id=UUID(alert.event_id),
        event=EVENT,
        occurred=alert.crossed_at,
        resource=Resource(
            {"prefect.resource.id": f"vdc.tenant.{alert.tenant}", "prefect.resource.name": alert.tenant}
        ),
        payload={
            "tenant": alert.tenant,
            "month": alert.month,
            "percent": alert.percent,
            "cost": str(alert.cost),
            "budget": str(alert.budget),
            "currency": alert.currency,
        },
    )
