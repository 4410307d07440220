"""Tenants by what they cost: what each holds, what its running month costs, and what it was billed last."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from sqlalchemy.orm import Session

from reports.html import plain
from reports.report import Report, Section
from reports.running import running_month
from vdc.access import check
from vdc.billed import Billed
from vdc.billing import read_issued, read_tenants
from vdc.tariff_book import TariffBook
from vdc.usage import tenant_use

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 15


def ranking(session: Session, tenants_: Sequence[Billed], book: TariffBook, now: datetime) -> pd.DataFrame:
    """A row a tenant, the dearest first. Money in Decimal; `share_percent` is of all that is cost so far."""
    last = {bill.tenant: bill for bill in read_issued(session)}
    rows = []
    for tenant, month in zip(tenants_, running_month(session, tenants_, book, now), strict=True):
        use, billed = tenant_use(session, tenant.tenant_id), last.get(tenant.name)
        rows.append(
            {
                "tenant": tenant.name,
                "machines": use.vms,
                "vcpu": use.vcpu,
                "memory_mib": use.memory_mib,
                "disk_mib": use.disk_mib,
                "cost": month["cost"],
                "share_percent": 0.0,
                "forecast": month["forecast"],
                "budget_used_percent": month["budget_used_percent"],
                "last_bill": billed.total if billed else None,
                "last_month": billed.month if billed else None,
                "currency": month["currency"],
            }
        )
    rows.sort(key=lambda row: (-row["cost"], row["tenant"]))
    total = sum((row["cost"] for row in rows), Decimal(0))
    for row in rows:
        row["share_percent"] = float(round(100 * row["cost"] / total, 1)) if total else 0.0
    return pd.DataFrame(rows)


def tenants(session: Session, now: datetime, book: TariffBook) -> Report:
    """The report, by the site's tariffs."""
    check(session, "report.see")
    found = ranking(session, read_tenants(session), book, now)
    words = ["Nothing was used in the running month."]
    if found["share_percent"].sum():
        first, some = found.iloc[0], found[found["cost"] > 0]
        words = [
            f"{first['tenant']} is {first['share_percent']:g}% of what the running month cost so far.",
            f"{len(some)} of {len(found)} tenants used something.",
        ]
    over = found[found["budget_used_percent"].astype(float) >= 100]
    words += [
        f"{row.tenant} has used up its budget ({row.budget_used_percent:g}%)." for row in over.itertuples()
    ]
    drawn = found[found["cost"] > 0].head(SHOWN)
    note = "Without tax. Cost: of the running month so far; forecast: as things stand, to its end."
    plot = partial(_plot, drawn) if len(drawn) else None
    section = Section("tenants", "By cost", found, "There is no tenant.", note, plot)
    return Report("tenants", "Tenants", now, words, [section])


def _plot(drawn: pd.DataFrame, figure: Figure) -> None:
    axes = figure.subplots()
    names, cost = drawn["tenant"][::-1], drawn["cost"].astype(float)[::-1]
    axes.barh(names, drawn["forecast"].astype(float)[::-1], color="#c9d7ea", label="forecast")
    axes.barh(names, cost, color="#1f5fa8", label="so far")
    axes.set_xlabel(str(drawn["currency"].iloc[0]))
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set_ylim(-0.8, len(drawn) - 0.2)
    plain(axes)
