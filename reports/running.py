"""The running month: what was used until now, and what it will cost if nothing changes until its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from reports.bill import bills
from reports.forecast import bounds
from reports.page import per_day
from reports.usage import charges, read_events, spans, summary
from vdc.billed import Billed
from vdc.documents import Document
from vdc.months import Month, Window
from vdc.schema import Tenant
from vdc.tariff_book import TariffBook


def running_month(
    session: Session, tenants: Sequence[Billed], book: TariffBook, now: datetime
) -> list[dict[str, Any]]:
    """A row a tenant: hours in units of the tariff, cost so far, forecast, budget. Money in Decimal.

    The forecast keeps every machine as it is now until the month ends; its range is reports.forecast.bounds.
    """
    budgets = dict(session.execute(select(Tenant.id, Tenant.monthly_budget)).all())
    return [_row(session, tenant, book, now, budgets[tenant.tenant_id]) for tenant in tenants]


def _row(
    session: Session, tenant: Billed, book: TariffBook, now: datetime, budget: Decimal | None
) -> dict[str, Any]:
    month = Month.of(now, tenant.time_zone)
    so_far = Window(tenant.window(month).begin, now)
    # Nothing that is told to happen later than now counts: a clock that runs ahead shall not forecast.
    events = read_events(session, [tenant.tenant_id], so_far)
    used = spans(events, so_far)
    figures = {
        name: float(value)
        for name, value in summary(charges(used[used["tenant_id"] == tenant.tenant_id])).sum().items()
    }
    (cost,) = bills(events, [tenant], month, book, site="", now=now)
    (forecast,) = bills(events, [tenant], month, book, site="")
    window = tenant.window(month)
    days = [
        *_last_month(session, tenant, month.preceding, book),
        *_whole_days(cost.document, now.astimezone(ZoneInfo(tenant.time_zone)).day - 1),
    ]
    range_ = bounds(days, cost.total, forecast.total, (window.end - now) / timedelta(days=1))
    return {
        "tenant": tenant.name,
        "month": str(month),
        "machines": int(figures["machines"]),
        "vcpu_hours": round(figures["vCPU"], 3),
        "memory_gib_hours": round(figures["memory"], 3),
        "disk_gib_hours": round(figures["disk"], 3),
        "ec2_hours": round(figures["EC2 instance"], 3),
        "cost": cost.total,
        "forecast": forecast.total,
        "forecast_low": range_.low,
        "forecast_high": range_.high,
        "forecast_history_days": range_.days,
        "budget": budget,
        "budget_used_percent": float(round(100 * cost.total / budget, 1)) if budget else None,
        "currency": cost.currency,
    }


def _last_month(session: Session, tenant: Billed, month: Month, book: TariffBook) -> list[float]:
    """Cost of its days."""
    events = read_events(session, [tenant.tenant_id], tenant.window(month))
    if events.empty:
        return []
    (whole,) = bills(events, [tenant], month, book, site="")
    return _whole_days(whole.document, None)


def _whole_days(document: Document, days: int | None) -> list[float]:
    """Cost of the first so many days of a month (None: all)."""
    return [sum(day) for day in zip(*per_day(document).values(), strict=True)][:days]
