"""The running month: what was used until now, and what it will cost if nothing changes until its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from reports.bill import bills
from reports.usage import charges, read_events, spans, summary
from vdc.billed import Billed
from vdc.months import Month, Window
from vdc.tariff_book import TariffBook


def running_month(
    session: Session, tenants: Sequence[Billed], book: TariffBook, now: datetime
) -> list[dict[str, Any]]:
    """A row a tenant: hours in units of the tariff, cost so far, forecast. Money in Decimal.

    The forecast keeps every machine as it is now until the month ends.
    """
    return [_row(session, tenant, book, now) for tenant in tenants]


def _row(session: Session, tenant: Billed, book: TariffBook, now: datetime) -> dict[str, Any]:
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
        "currency": cost.currency,
    }
