"""Budgets of tenants: when a part of one is used up, an alert is written down, once, and told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vdc.errors import Invalid
from vdc.schema import BudgetAlert, Tenant, utc_now


@dataclass(frozen=True, slots=True)
class Spent:
    """What a tenant's running month has cost so far, and its budget."""

    tenant: str
    month: str
    cost: Decimal
    budget: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class Alert:
    """`percent` of a budget are used up. `event_id` is that of the event that tells it, however often."""

    event_id: str
    tenant: str
    month: str
    percent: int
    cost: Decimal
    budget: Decimal
    currency: str
    crossed_at: datetime


def thresholds(text: str) -> tuple[int, ...]:
    """`50,80,100`, rising. Raises Invalid."""
    try:
        percents = tuple(int(part) for part in text.split(","))
    except ValueError:
        percents = ()
    rising = sorted(set(percents)) == list(percents)
    if not percents or not rising or not 1 <= percents[0] <= percents[-1] <= 1000:
        raise Invalid(
            f"Setting budget_alert_percent {text!r} is refused: give rising percentages from 1 to 1000, "
            "such as 50,80,100."
        )
    return percents


def crossed(spent: Spent, percents: Sequence[int]) -> list[int]:
    """Those parts of the budget that are used up. Of a budget of nothing each is, once something is spent."""
    return [p for p in percents if spent.cost > 0 and spent.cost * 100 >= spent.budget * p]


def record_crossings(session: Session, spent: Iterable[Spent], percents: Sequence[int]) -> int:
    """Write down what was crossed since the last time; returns how many that is."""
    ids = dict(session.execute(select(Tenant.name, Tenant.id)).all())
    there = set(session.execute(select(BudgetAlert.tenant_id, BudgetAlert.month, BudgetAlert.percent)))
    now, new = utc_now(), 0
    for of in spent:
        for percent in crossed(of, percents):
            if (ids[of.tenant], of.month, percent) in there:
                continue
            alert = BudgetAlert(tenant_id=ids[of.tenant], month=of.month, percent=percent, crossed_at=now)
            alert.cost, alert.budget, alert.currency = of.cost, of.budget, of.currency
            session.add(alert)
            new += 1
    return new


def read_untold(session: Session) -> list[Alert]:
    """Alerts that nobody was told of yet, the oldest first."""
    query = (
        select(BudgetAlert, Tenant.name)
        .join(Tenant, Tenant.id == BudgetAlert.tenant_id)
        .where(BudgetAlert.told_at.is_(None))
        .order_by(BudgetAlert.crossed_at, Tenant.name, BudgetAlert.percent)
    )
    return [
        Alert(a.event_id, name, a.month, a.percent, a.cost, a.budget, a.currency, a.crossed_at)
        for a, name in session.execute(query)
    ]


def record_told(session: Session, alerts: Iterable[Alert]) -> None:
    ids = [alert.event_id for alert in alerts]
    session.execute(update(BudgetAlert).where(BudgetAlert.event_id.in_(ids)).values(told_at=utc_now()))
