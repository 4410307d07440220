"""A bill: priced lines as a document; the total is the sum of the lines.

A bill is a plain document (a dict with the keys of docs/billing.md, decimals as text): what is issued is its
JSON, and every other form is made from it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from reports.levels import levels, since_1970
from reports.lines import PRECISION, lines, unit_of
from vdc.billed import Billed, Draft
from vdc.months import HOUR_US, Month, Window, instant_of
from vdc.tariff import CENT
from vdc.tariff_book import Piece, TariffBook

EXACT_PLACES = 30
"""Decimal places of a quantity: a byte is 2**-30 GiB, and a line's amount follows from what is printed."""


@dataclass(frozen=True, slots=True)
class Account:
    """What tenants with the same tariffs at the same times owe: `lines` as of reports.lines.LINES."""

    tenants: tuple[Billed, ...]
    pieces: tuple[Piece, ...]
    window: Window
    lines: pd.DataFrame


def accounts(
    events: pd.DataFrame,
    tenants: Sequence[Billed],
    month: Month,
    book: TariffBook,
    now: datetime | None = None,
) -> list[Account]:
    """What each tenant owes for the month; with `now` until then, or to its end if that was before.

    Raises Invalid where no tariff is in force, or an instance has no price.
    """
    groups: dict[Any, list[Billed]] = {}
    pieces_of = {}
    for tenant in tenants:
        window = tenant.window(month)
        end = window.end if now is None else min(now, window.end)
        pieces = tuple(book.pieces(tenant.name, Window(window.begin, end), tenant.time_zone))
        key = (window, tuple((piece.window, piece.label) for piece in pieces))
        groups.setdefault(key, []).append(tenant)
        pieces_of[key] = pieces
    of = levels(events)
    made = []
    for key, group in groups.items():
        since = {tenant.tenant_id: tenant.since for tenant in group}
        window = key[0]
        made.append(
            Account(tuple(group), pieces_of[key], window, lines(of, pieces_of[key], window.hours, since))
        )
    return made


def bills(
    events: pd.DataFrame,
    tenants: Sequence[Billed],
    month: Month,
    book: TariffBook,
    *,
    site: str,
    now: datetime | None = None,
    kind: str = "",
) -> list[Draft]:
    """A draft for each tenant, in order. With `now` previews, which end then or with the month."""
    kind = kind or ("bill" if now is None else "preview")
    drafts = {}
    for account in accounts(events, tenants, month, book, now):
        of_tenant = dict(iter(account.lines.groupby("tenant_id", observed=True, sort=False)))
        none = account.lines.head(0)
        for tenant in account.tenants:
            drafts[tenant.tenant_id] = _draft(
                account,
                tenant,
                of_tenant.get(tenant.tenant_id, none),
                month,
                site=site,
                kind=kind,
            )
    return [drafts[tenant.tenant_id] for tenant in tenants]


def _draft(
    account: Account, tenant: Billed, of: pd.DataFrame, month: Month, *, site: str, kind: str
) -> Draft:
    zone, total = ZoneInfo(tenant.time_zone), int(of["cents"].sum()) * CENT
    last = account.pieces[-1]
    with localcontext(prec=PRECISION):
        rows = list(_lines(of, account.pieces, zone))
    document: dict[str, Any] = {
        "kind": kind,
        "number": None,
        "site": site,
        "tenant": tenant.name,
        "month": str(month),
        "time_zone": tenant.time_zone,
        "from": account.window.begin.astimezone(zone).isoformat(),
        "to": account.window.end.astimezone(zone).isoformat(),
        "charged_until": last.window.end.astimezone(zone).isoformat(),
        "hours": _plain(account.window.hours),
        "currency": last.tariff.currency,
        "tariff": last.tariff.described(),
        "tariffs": [
            {
                "name": piece.label,
                "from": piece.window.begin.astimezone(zone).isoformat(),
                "to": piece.window.end.astimezone(zone).isoformat(),
            }
            | piece.tariff.described()
            for piece in account.pieces
        ],
        "lines": rows,
        "total": str(total),
    }
    return Draft(tenant.tenant_id, total, last.tariff.currency, document)


def _lines(of: pd.DataFrame, pieces: Sequence[Piece], zone: ZoneInfo) -> Iterator[dict[str, str]]:
    columns = [
        of[name] for name in ("machine", "vm_id", "what", "quantity", "share", "price", "cents", "piece")
    ]
    edges = [since_1970(of[name]).tolist() for name in ("begin", "end")]
    for machine, vm_id, what, quantity, share, price, cents, piece, begin, end in zip(
        *(column.tolist() for column in columns), *edges, strict=True
    ):
        unit = unit_of(what, pieces[piece].tariff.currency)
        yield {
            "machine": machine,
            "vm_id": vm_id,
            "what": what,
            "from": instant_of(begin).astimezone(zone).isoformat(),
            "to": instant_of(end).astimezone(zone).isoformat(),
            "hours": _plain(Decimal(end - begin) / HOUR_US),
            "quantity": _plain(Decimal(quantity) / unit.divisor, EXACT_PLACES),
            "unit": unit.unit,
            "share": share,
            "unit_price": _plain(Decimal(price), EXACT_PLACES),
            "per": unit.per,
            "amount": str(cents * CENT),
            "tariff": pieces[piece].label,
        }


def _plain(value: Decimal, places: int = 6) -> str:
    """Without exponent and trailing zeros, to at most so many decimal places."""
    text = format(round(value, places), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
