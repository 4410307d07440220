"""The running month: what was used until now, and what it will cost if nothing changes until its end."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from reports.bill import bill
from reports.usage import charges, read_events, spans, summary
from vdc.billing import Billed, read_site
from vdc.months import Month, Window
from vdc.tariff import Tariff


def running_month(
    session: Session, tenants: Sequence[Billed], tariff: Tariff, now: datetime
) -> list[dict[str, Any]]:
    """A row a tenant: hours in units of the tariff, cost so far, forecast. Money in Decimal.

    The forecast keeps every machine as it is now until the month ends.
    """
    return [_row(session, tenant, tariff, now) for tenant in tenants]


def _row(session: Session, tenant: Billed, tariff: Tariff, now: datetime) -> dict[str, Any]:
    month = Month.of(now, tenant.time_zone)
    window = tenant.window(month)
    so_far = Window(window.begin, now)
    # Nothing that is told to happen later than now counts: a clock that runs ahead shall not forecast.
    events = read_events(session, [tenant.tenant_id], so_far)
    used = charges(spans(events, so_far))
    in_all = charges(spans(events, window))
    site = read_site(session)
    figures = {name: float(value) for name, value in summary(used).sum().items()}
    return {
        "tenant": tenant.name,
        "month": str(month),
        "machines": int(figures["machines"]),
        "vcpu_hours": round(figures["vCPU"], 3),
        "memory_gib_hours": round(figures["memory"], 3),
        "disk_gib_hours": round(figures["disk"], 3),
        "ec2_hours": round(figures["EC2 instance"], 3),
        "cost": bill(tenant, month, tariff, used, site=site, until=now).total,
        "forecast": bill(tenant, month, tariff, in_all, site=site).total,
        "currency": tariff.currency,
    }
