"""A bill: charges priced by a tariff, a line each, rounded once at the line; the total is the sum of lines.

A bill is a plain document (a dict with the keys of docs/billing.md, decimals as text): what is issued is its
JSON, and every other form is made from it alone.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from reports.usage import charges, spans
from vdc.billing import Billed, Draft
from vdc.errors import Invalid
from vdc.months import HOUR_US, MICROSECOND, Month, Window
from vdc.tariff import ITEMS, Item, Tariff, to_cent

PRECISION = 60
"""Digits of intermediate results: products are exact, a quotient is cut far behind the cent."""

_ITEM = {item.what: item for item in ITEMS}


def unit_price(item: Item, tariff: Tariff, hourly_price: str, machine: str) -> Decimal:
    """Price of one unit for an hour or a month, unrounded.

    Raises Invalid for an instance whose price was never recorded: it must not be given away silently.
    """
    price: Decimal = getattr(tariff, item.price)
    if item.provider == "local":
        return price
    if not hourly_price:
        raise Invalid(f"Machine {machine} runs at {item.provider}, and no price of it was recorded.")
    return Decimal(hourly_price) * price


def amount(
    item: Item, quantity: int, length_us: int, price: Decimal, month_hours: Decimal
) -> tuple[Decimal, Decimal, Decimal]:
    """Quantity in the item's unit, hours (unrounded), and the amount, rounded to the cent."""
    with localcontext(prec=PRECISION):
        units, hours = Decimal(quantity) / item.divisor, Decimal(length_us) / HOUR_US
        exact = price * quantity * length_us / item.divisor / HOUR_US
        return units, hours, to_cent(exact / month_hours if item.per_month else exact)


def bill(
    tenant: Billed,
    month: Month,
    tariff: Tariff,
    charged: pd.DataFrame,
    *,
    site: str,
    until: datetime | None = None,
) -> Draft:
    """The tenant's bill for charges that lie in its month.

    With `until` it is a preview of a month that is not over: `charged` goes no further.
    """
    window, zone = tenant.window(month), ZoneInfo(tenant.time_zone)
    lines = [_line(row, tariff, window.hours, zone) for row in charged.itertuples(index=False)]
    total = sum((Decimal(line["amount"]) for line in lines), Decimal("0.00"))
    document: dict[str, Any] = {
        "kind": "bill" if until is None else "preview",
        "number": None,
        "site": site,
        "tenant": tenant.name,
        "month": str(month),
        "time_zone": tenant.time_zone,
        "from": window.begin.astimezone(zone).isoformat(),
        "to": window.end.astimezone(zone).isoformat(),
        "charged_until": (until or window.end).astimezone(zone).isoformat(),
        "hours": _plain(window.hours),
        "currency": tariff.currency,
        "tariff": tariff.described(),
        "lines": lines,
        "total": str(total),
    }
    return Draft(tenant.tenant_id, total, tariff.currency, document)


def _line(row: Any, tariff: Tariff, month_hours: Decimal, zone: ZoneInfo) -> dict[str, str]:
    item = _ITEM[row.what]
    begin, end = row.begin.to_pydatetime(), row.end.to_pydatetime()
    price = unit_price(item, tariff, row.hourly_price, row.machine)
    length_us = (end - begin) // MICROSECOND
    units, hours, rounded = amount(item, int(row.quantity), length_us, price, month_hours)
    return {
        "machine": row.machine,
        "vm_id": row.vm_id,
        "what": item.what,
        "from": begin.astimezone(zone).isoformat(),
        "to": end.astimezone(zone).isoformat(),
        "hours": _plain(hours),
        "quantity": _plain(units),
        "unit": item.unit,
        "unit_price": _plain(price, places=12),
        "per": item.unit_of_price,
        "amount": str(rounded),
    }


def bills(
    events: pd.DataFrame,
    tenants: list[Billed],
    month: Month,
    tariff: Tariff,
    *,
    site: str,
    now: datetime | None = None,
) -> list[Draft]:
    """A draft for each tenant, in order. With `now` previews, which end then or with the month."""
    drafts = []
    for tenant in tenants:
        window = tenant.window(month)
        until = None if now is None else min(now, window.end)
        of_tenant = events[events["tenant_id"] == tenant.tenant_id]
        charged = charges(spans(of_tenant, Window(window.begin, until or window.end)))
        drafts.append(bill(tenant, month, tariff, charged, site=site, until=until))
    return drafts


def _plain(value: Decimal, places: int = 6) -> str:
    """Without exponent and trailing zeros, to at most so many decimal places."""
    text = format(round(value, places), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
