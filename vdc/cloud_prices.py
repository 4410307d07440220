"""What instances cost, from the operator's list, and which of them fit. Pure; no known price, no offer."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from vdc.errors import Invalid
from vdc.model import Offer

COLUMNS = ("instance_type", "zone", "vcpu", "memory_mib", "price_per_hour", "currency", "as_of")
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
MAX_PRICE = Decimal(10_000)


@dataclass(frozen=True, slots=True)
class Price:
    """A line of the list."""

    instance_type: str
    zone: str
    vcpu: int
    memory_mib: int
    price_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class PriceList:
    """A list in one currency. `as_of` is the day of its oldest price."""

    prices: tuple[Price, ...]
    currency: str
    as_of: date


def parse(text: str, source: str, *, today: date) -> PriceList:
    """Read a price list (CSV with the columns COLUMNS). Raises Invalid naming the line and what is wrong."""
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise Invalid(f"Price list {source} is refused: its first line must be {','.join(COLUMNS)}.")
    prices: dict[tuple[str, str], Price] = {}
    currencies, days = set(), set()
    for row in reader:
        where = f"Price list {source}, line {reader.line_num}"
        if None in row or None in row.values():
            raise Invalid(f"{where}: {len(COLUMNS)} values are expected.")
        price = _price(row, where)
        key = (price.instance_type, price.zone)
        if key in prices:
            raise Invalid(f"{where}: {key[0]} in {key[1]} is there twice.")
        prices[key] = price
        currencies.add(_currency(row["currency"], where))
        days.add(_day(row["as_of"], where, today))
    if not prices:
        raise Invalid(f"Price list {source} is empty.")
    if len(currencies) > 1:
        raise Invalid(f"Price list {source} mixes currencies: {', '.join(sorted(currencies))}.")
    return PriceList(tuple(prices.values()), currencies.pop(), min(days))


def _price(row: dict[str, str], where: str) -> Price:
    for name in ("instance_type", "zone"):
        if not WORD.fullmatch(row[name]):
            raise Invalid(f"{where}: {name} {row[name]!r} is refused.")
    sizes = []
    for name in ("vcpu", "memory_mib"):
        if not re.fullmatch(r"[1-9][0-9]{0,8}", row[name]):
            raise Invalid(f"{where}: {name} {row[name]!r} is no whole number above 0.")
        sizes.append(int(row[name]))
    try:
        price = Decimal(row["price_per_hour"])
    except InvalidOperation as error:
        raise Invalid(f"{where}: price_per_hour {row['price_per_hour']!r} is no decimal number.") from error
    # Lists with holes have 0 where they know nothing.
    if not price.is_finite() or not 0 < price <= MAX_PRICE:
        raise Invalid(f"{where}: price_per_hour {price} is refused: above 0, up to {MAX_PRICE}.")
    return Price(row["instance_type"], row["zone"], sizes[0], sizes[1], price)


def _currency(text: str, where: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", text):
        raise Invalid(f"{where}: currency {text!r} is none: three capital letters, such as EUR.")
    return text


def _day(text: str, where: str, today: date) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{where}: as_of {text!r} is no day, such as 2026-11-01.") from error
    if day > today:
        raise Invalid(f"{where}: as_of {text} is in the future.")
    return day


def fitting(
    prices: Iterable[Price], vcpu: int, memory_mib: int, max_price: Decimal | None = None
) -> tuple[Offer, ...]:
    """What a machine of this size may run on, the cheapest first (then by type and zone)."""
    found = [
        Offer(p.instance_type, p.zone, p.price_per_hour)
        for p in prices
        if p.vcpu >= vcpu
        and p.memory_mib >= memory_mib
        and (max_price is None or p.price_per_hour <= max_price)
    ]
    return tuple(sorted(found, key=lambda o: (o.price_per_hour, o.instance_type, o.zone)))
