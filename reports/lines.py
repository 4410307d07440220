"""Charges priced: a row a line, its amount rounded to the cent once, here and nowhere else.

A line's exact amount is a product of whole numbers and one price, divided by whole numbers. It is computed
for all lines at once in binary floating point, and that decides where it can: three roundings of at most
2**-53 each make an error below 2**-51 of the amount, so that a fraction of a cent that is further than 2**-50
of the amount from one half is on the side where it seems to be. Every other line (half a cent is common where
prices are round) is computed in Decimal, with so many digits that the product is exact. Sums are of whole
cents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.levels import Flags, Ints, Table
from reports.usage import charged, cut
from vdc.errors import Invalid
from vdc.months import HOUR_US, MICROSECOND, Window, microseconds
from vdc.tariff import CENT, DISCOUNT, FLAT, ITEMS, LIST_PRICES, TRAFFIC, WHATS, Item, Tariff, to_cent
from vdc.tariff_book import Piece

PRECISION = 100
"""Digits of intermediate results: products are exact, a quotient is cut far behind the cent."""
CERTAIN = 2.0**-50
EXACT_INTEGER = 2**53
GIB = 2**30

LINES = [
    "tenant_id",
    "vm_id",
    "machine",
    "what",
    "begin",
    "end",
    "quantity",
    "share",
    "price",
    "cents",
    "piece",
]
"""Columns of a line frame: `quantity` in the item's raw unit (MiB, bytes, ...), `price` of one unit as text,
`cents` the amount, `piece` the number of the tariff's piece of the month."""

_ITEM = {item.what: item for item in ITEMS}


@dataclass(frozen=True, slots=True)
class Unit:
    """How a line's quantity is read: `divisor` makes `unit` of it; it costs its price `per` that."""

    divisor: int
    unit: str
    per: str


def unit_of(what: str, currency: str) -> Unit:
    if what in _ITEM:
        return Unit(_ITEM[what].divisor, _ITEM[what].unit, _ITEM[what].unit_of_price)
    return {
        TRAFFIC: Unit(GIB, "GiB", "GiB"),
        FLAT: Unit(1, "item", "item month"),
        DISCOUNT: Unit(100, currency, currency),
    }[what]


def timed(unit: Unit) -> bool:
    """Whether it is paid for by the hour or the month."""
    return unit.per.endswith((" hour", " month"))


def exact(quantity: int, length_us: int, price: Decimal, unit: Unit, month_hours: Decimal) -> Decimal:
    """The amount before it is rounded; of what is not paid for by time `length_us` does not count."""
    with localcontext(prec=PRECISION):
        amount, divisor = price * quantity, Decimal(unit.divisor)
        if timed(unit):
            amount, divisor = amount * length_us, divisor * HOUR_US
        # One division, the last step: where the amount is half a cent, it comes out as that.
        return amount / (divisor * month_hours if unit.per.endswith(" month") else divisor)


def _cents(
    quantity: Ints, length_us: Ints, prices: Sequence[Decimal], price: Ints, unit: Unit, month_hours: Decimal
) -> Ints:
    """Amounts in whole cents, half a cent up; `price` is each line's number in `prices`."""
    # What one raw unit costs for a microsecond (or at all): rounded once.
    factors = np.array([float(exact(1, 1, p, unit, month_hours) / CENT) for p in prices])
    seems = quantity.astype(float) * factors[price]
    if timed(unit):
        seems *= length_us
    below = np.floor(seems)
    fraction = seems - below
    cents = below.astype(np.int64) + (fraction > 0.5)
    doubtful = (np.abs(fraction - 0.5) <= seems * CERTAIN) | (quantity >= EXACT_INTEGER)
    for n in np.flatnonzero(doubtful):
        amount = exact(int(quantity[n]), int(length_us[n]), prices[price[n]], unit, month_hours)
        cents[n] = int(to_cent(amount) / CENT)
    return cents


def lines(
    of: Table, pieces: Sequence[Piece], month_hours: Decimal, tenants: Mapping[str, datetime | None]
) -> pd.DataFrame:
    """Lines of tenants that have the same tariffs at the same times; columns as of LINES.

    `of` are levels; `tenants` says by id since when each owes flat items (None: always).
    Raises Invalid for an instance whose price was never recorded: it must not be given away silently.
    """
    names = _names(of, pieces, tenants)
    theirs = np.isin(np.arange(len(names["tenant_id"])), names["tenant_id"].get_indexer(list(tenants)))
    parts: list[_Part] = []
    for n, piece in enumerate(pieces):
        spans = cut(of, piece.window)
        spans = spans.take(theirs[spans["tenant_id"]])
        parts += [_priced(spans, item, piece.tariff, month_hours) | {"piece": n} for item in ITEMS]
        parts.append(_traffic(of, theirs, piece, month_hours) | {"piece": n})
        parts.append(_few(names, _flat(piece, month_hours, tenants), FLAT, piece.window.end) | {"piece": n})
    made = _joined(parts)
    return _ordered(_joined([made, *_discounts(made, names, pieces)]), names)


_Part = Mapping[str, Any]
"""Columns as of LINES, some as one value for all rows; texts as positions in names that are kept beside."""


def _names(of: Table, pieces: Sequence[Piece], tenants: Mapping[str, datetime | None]) -> dict[str, pd.Index]:
    """The levels' names, and those that lines of no machine bear: these come last."""
    named = [f.name for p in pieces for f in p.tariff.flat]
    named += [_step(p.tariff, n) for p in pieces for n in range(len(p.tariff.discounts))]
    wanted = {"vm_id": [""], "machine": named, "tenant_id": list(tenants)}
    names = {}
    for column, texts in wanted.items():
        there = of.texts[column].astype(object)
        names[column] = there.append(
            pd.Index(dict.fromkeys(texts), dtype=object).difference(there, sort=False)
        )
    return names


def _step(tariff: Tariff, n: int) -> str:
    step = tariff.discounts[n]
    return f"{step.percent}% of what is above {step.above} {tariff.currency}"


def _priced(spans: Table, item: Item, tariff: Tariff, month_hours: Decimal) -> _Part:
    price: Decimal | Mapping[str, Decimal] = getattr(tariff, item.price)
    due, shares = charged(spans, item, tariff)
    if item.price not in LIST_PRICES and not price:
        due = due.take(np.empty(0, np.int64))
    by = "image" if item.price == "licence_hour" else "hourly_price"
    width = max(len(due.texts[by]), 1)
    kinds, of_kind = np.unique(due["share"] * width + due[by], return_inverse=True)
    prices = []
    for kind in kinds:
        of_share, name = Decimal(shares[kind // width]), due.texts[by][kind % width]
        if item.price == "licence_hour":
            prices.append(tariff.licence_hour[name] * of_share)
        elif item.provider == "ec2":
            if not name:
                unpriced = due["machine"][int(np.argmax(kinds[of_kind] == kind))]
                machine = due.texts["machine"][unpriced]
                raise Invalid(f"Machine {machine} runs at ec2, and no price of it was recorded.")
            prices.append(Decimal(name) * tariff.ec2_margin)
        else:
            assert isinstance(price, Decimal)
            prices.append(price * of_share)
    length_us = due["end"] - due["begin"]
    unit = unit_of(item.what, tariff.currency)
    return {
        **{name: due[name] for name in ("tenant_id", "vm_id", "machine", "begin", "end", "quantity")},
        "what": WHATS.index(item.what),
        "share": _texts(shares)[due["share"]],
        "cents": _cents(due["quantity"], length_us, prices, of_kind, unit, month_hours),
        "price": _texts(prices)[of_kind],
    }


def _traffic(of: Table, theirs: Flags, piece: Piece, month_hours: Decimal) -> _Part:
    """What each machine sent while the piece's tariff was in force: by when it was told."""
    begin, end = microseconds(piece.window.begin), microseconds(piece.window.end)
    price = [piece.tariff.traffic_gib]
    told = (
        (of["sent"] > 0) & (begin <= of["begin"]) & (of["begin"] < end) & theirs[of["payer"]] & bool(price[0])
    )
    rows = np.flatnonzero(told)
    # Rows are by machine and time: one machine's of one payer become one.
    width = len(theirs)
    _, first, group = np.unique(
        of["vm_id"][rows] * width + of["payer"][rows], return_index=True, return_inverse=True
    )
    quantity = np.zeros(len(first), np.int64)
    np.add.at(quantity, group, of["sent"][rows])
    kept, none = rows[first], np.zeros(len(first), np.int64)
    unit = unit_of(TRAFFIC, piece.tariff.currency)
    return {
        "tenant_id": of["payer"][kept],
        "vm_id": of["vm_id"][kept],
        "machine": of["machine"][kept],
        "what": WHATS.index(TRAFFIC),
        "begin": begin,
        "end": end,
        "quantity": quantity,
        "share": "1",
        "cents": _cents(quantity, none, price, none, unit, month_hours),
        "price": _texts(price)[none],
    }


def _flat(piece: Piece, month_hours: Decimal, tenants: Mapping[str, datetime | None]) -> list[_Row]:
    unit, rows = unit_of(FLAT, piece.tariff.currency), []
    for tenant, since in tenants.items():
        begin = max(piece.window.begin, since) if since else piece.window.begin
        if begin >= piece.window.end:
            continue
        length_us = (piece.window.end - begin) // MICROSECOND
        for flat in piece.tariff.flat:
            amount = to_cent(exact(1, length_us, flat.month, unit, month_hours))
            rows.append((tenant, flat.name, begin, 1, flat.month, amount))
    return rows


def _discounts(made: _Part, names: Mapping[str, pd.Index], pieces: Sequence[Piece]) -> Iterator[_Part]:
    """Of the sum of a tenant's lines; pieces that follow each other with the same steps are one."""
    begin = 0
    for end in range(1, len(pieces) + 1):
        tariff = pieces[begin].tariff
        if end < len(pieces) and pieces[end].tariff.discounts == tariff.discounts:
            continue
        if tariff.discounts:
            window = Window(pieces[begin].window.begin, pieces[end - 1].window.end)
            sums = np.zeros(len(names["tenant_id"]), np.int64)
            those = (begin <= made["piece"]) & (made["piece"] < end)
            np.add.at(sums, made["tenant_id"][those], made["cents"][those])
            rows: list[_Row] = [
                (names["tenant_id"][tenant], name, window.begin, *rest)
                for tenant in np.flatnonzero(sums)
                for name, *rest in _steps(tariff, int(sums[tenant]))
            ]
            yield _few(names, rows, DISCOUNT, window.end) | {"piece": end - 1}
        begin = end


def _steps(tariff: Tariff, cents: int) -> list[tuple[str, int, Decimal, Decimal]]:
    """Of each step that a sum reaches: its name, the cents that lie in it, the price of one, the amount."""
    unit, rows = unit_of(DISCOUNT, tariff.currency), []
    tops: list[Decimal | None] = [step.above for step in tariff.discounts[1:]]
    for n, (step, top) in enumerate(zip(tariff.discounts, [*tops, None], strict=True)):
        upper = cents if top is None else min(cents, int(top / CENT))
        inside, price = upper - int(step.above / CENT), -step.percent / 100
        if inside > 0 and price:
            rows.append((_step(tariff, n), inside, price, to_cent(exact(inside, 0, price, unit, Decimal(1)))))
    return rows


_Row = tuple[str, str, datetime, int, Decimal, Decimal]
"""A line of no machine: tenant, name, begin, quantity, price, amount."""


def _few(names: Mapping[str, pd.Index], rows: Sequence[_Row], what: str, end: datetime) -> dict[str, Any]:
    """Lines of no machine."""
    tenants, named, begins, quantities, prices, amounts = zip(*rows, strict=True) if rows else ((),) * 6
    return {
        "tenant_id": names["tenant_id"].get_indexer(list(tenants)),
        "vm_id": names["vm_id"].get_loc(""),
        "machine": names["machine"].get_indexer(list(named)),
        "what": WHATS.index(what),
        "begin": np.array([microseconds(b) for b in begins], np.int64),
        "end": microseconds(end),
        "quantity": np.array(quantities, np.int64),
        "share": "1",
        "price": _texts(prices),
        "cents": np.array([int(amount / CENT) for amount in amounts], np.int64),
    }


def _texts(values: Sequence[Decimal | str]) -> npt.NDArray[np.object_]:
    texts = np.empty(len(values), object)
    texts[:] = [value if isinstance(value, str) else format(value, "f") for value in values]
    return texts


def _joined(parts: Sequence[_Part]) -> dict[str, npt.NDArray[Any]]:
    """One after the other; what is one value is repeated."""
    joined = {}
    for name in LINES:
        columns = [(part[name], len(part["cents"])) for part in parts]
        joined[name] = np.concatenate([c if isinstance(c, np.ndarray) else np.full(n, c) for c, n in columns])
    return joined


def _ordered(made: Mapping[str, npt.NDArray[Any]], names: Mapping[str, pd.Index]) -> pd.DataFrame:
    """By tenant; first machines by name, of each what it pays for by time; then flat items and discounts."""
    last = np.where(made["vm_id"] == names["vm_id"].get_loc(""), made["what"], 0)
    order = np.lexsort((made["begin"], made["what"], made["vm_id"], made["machine"], last, made["tenant_id"]))
    texts = {**names, "what": pd.Index(WHATS)}
    return Table({name: column[order] for name, column in made.items()}, texts).frame()
