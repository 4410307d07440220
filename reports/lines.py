"""Charges priced: a row a line, its amount rounded to the cent once, here and nowhere else.

A line's exact amount is a product of whole numbers and one price, divided by whole numbers. It is computed
for all lines at once in binary floating point, and that decides where it can: three roundings of at most
2**-53 each make an error below 2**-51 of the amount, so that a fraction of a cent that is further than 2**-50
of the amount from one half is on the side where it seems to be. Every other line (half a cent is common where
prices are round) is computed in Decimal, with so many digits that the product is exact. Sums are of whole
cents.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.levels import Ints, as_instants, since_1970
from reports.usage import charges, cut
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
    of: pd.DataFrame, pieces: Sequence[Piece], month_hours: Decimal, tenants: Mapping[str, datetime | None]
) -> pd.DataFrame:
    """Lines of tenants that have the same tariffs at the same times; columns as of LINES.

    `of` are the tenants' levels; `tenants` says by id since when each owes flat items (None: always).
    Raises Invalid for an instance whose price was never recorded: it must not be given away silently.
    """
    of = _with_names(of, pieces, tenants)
    frames = [_few(of, [], FLAT, pieces[-1].window.end).assign(piece=0)]
    for n, piece in enumerate(pieces):
        charged = charges(cut(of, piece.window), piece.tariff)
        made = [
            _priced(charged[(charged["what"] == item.what).to_numpy()], item, piece.tariff, month_hours)
            for item in ITEMS
        ]
        made.append(_traffic(of, piece, month_hours))
        made.append(_flat(of, piece, month_hours, tenants))
        frames += [frame.assign(piece=n) for frame in made if len(frame)]
    made_all = _joined(frames)
    return _ordered(_joined([made_all, *_discounts(made_all, pieces, month_hours)]))


def _with_names(
    of: pd.DataFrame, pieces: Sequence[Piece], tenants: Mapping[str, datetime | None]
) -> pd.DataFrame:
    """The levels, with the names that lines of no machine bear among the categories: they come last."""
    names = [f.name for p in pieces for f in p.tariff.flat]
    names += [_step(p.tariff, n) for p in pieces for n in range(len(p.tariff.discounts))]
    wanted: dict[str, Iterable[str]] = {"vm_id": [""], "machine": names, "tenant_id": tenants}
    for column, texts in wanted.items():
        there = of[column].cat.categories
        of = of.assign(
            **{column: of[column].cat.add_categories([t for t in dict.fromkeys(texts) if t not in there])}
        )
    return of


def _step(tariff: Tariff, n: int) -> str:
    step = tariff.discounts[n]
    return f"{step.percent}% of what is above {step.above} {tariff.currency}"


def _priced(due: pd.DataFrame, item: Item, tariff: Tariff, month_hours: Decimal) -> pd.DataFrame:
    price: Decimal | Mapping[str, Decimal] = getattr(tariff, item.price)
    if item.price not in LIST_PRICES and not price:
        return due.head(0)
    share, shares = pd.factorize(due["share"])
    by = due["image" if item.price == "licence_hour" else "hourly_price"].cat
    kinds, of_kind = np.unique(share * len(by.categories) + by.codes.to_numpy(np.int64), return_inverse=True)
    prices = []
    for kind in kinds:
        of_share, name = Decimal(shares[kind // len(by.categories)]), by.categories[kind % len(by.categories)]
        if item.price == "licence_hour":
            prices.append(tariff.licence_hour[name] * of_share)
        elif item.provider == "ec2":
            if not name:
                machine = due["machine"].iloc[int(np.argmax(kinds[of_kind] == kind))]
                raise Invalid(f"Machine {machine} runs at ec2, and no price of it was recorded.")
            prices.append(Decimal(name) * tariff.ec2_margin)
        else:
            assert isinstance(price, Decimal)
            prices.append(price * of_share)
    length_us = since_1970(due["end"]) - since_1970(due["begin"])
    unit = unit_of(item.what, tariff.currency)
    return due.assign(
        cents=_cents(due["quantity"].to_numpy(), length_us, prices, of_kind, unit, month_hours),
        price=_texts(prices)[of_kind],
    )


def _traffic(of: pd.DataFrame, piece: Piece, month_hours: Decimal) -> pd.DataFrame:
    """What each machine sent while the piece's tariff was in force: by when it was told."""
    begin, end = microseconds(piece.window.begin), microseconds(piece.window.end)
    at, sent = of["begin"].to_numpy(), of["sent"].to_numpy()
    told = of[(sent > 0) & (begin <= at) & (at < end)] if piece.tariff.traffic_gib else of.head(0)
    by = ["tenant_id", "vm_id"]
    made = told.groupby(by, observed=True, sort=False).agg(
        machine=("machine", "last"), quantity=("sent", "sum")
    )
    made = made.reset_index().astype({name: of[name].dtype for name in (*by, "machine")})
    price = [piece.tariff.traffic_gib]
    none = np.zeros(len(made), np.int64)
    unit = unit_of(TRAFFIC, piece.tariff.currency)
    return _whole(made, TRAFFIC, piece.window).assign(
        cents=_cents(made["quantity"].to_numpy(), none, price, none, unit, month_hours),
        price=_texts(price)[none],
    )


def _flat(
    of: pd.DataFrame, piece: Piece, month_hours: Decimal, tenants: Mapping[str, datetime | None]
) -> pd.DataFrame:
    unit, rows = unit_of(FLAT, piece.tariff.currency), []
    for tenant, since in tenants.items():
        begin = max(piece.window.begin, since) if since else piece.window.begin
        if begin >= piece.window.end:
            continue
        length_us = (piece.window.end - begin) // MICROSECOND
        for flat in piece.tariff.flat:
            amount = to_cent(exact(1, length_us, flat.month, unit, month_hours))
            rows.append((tenant, flat.name, begin, 1, flat.month, amount))
    return _few(of, rows, FLAT, piece.window.end)


def _discounts(made: pd.DataFrame, pieces: Sequence[Piece], month_hours: Decimal) -> list[pd.DataFrame]:
    """Of the sum of a tenant's lines; pieces that follow each other with the same steps are one."""
    frames, begin = [], 0
    for end in range(1, len(pieces) + 1):
        tariff = pieces[begin].tariff
        if end < len(pieces) and pieces[end].tariff.discounts == tariff.discounts:
            continue
        if tariff.discounts:
            window = Window(pieces[begin].window.begin, pieces[end - 1].window.end)
            of = made[made["piece"].between(begin, end - 1)]
            sums = of.groupby("tenant_id", observed=True)["cents"].sum()
            rows = [(tenant, *row) for tenant, cents in sums.items() for row in _steps(tariff, int(cents))]
            rows = [(tenant, name, window.begin, *rest) for tenant, name, *rest in rows]
            frames.append(_few(made, rows, DISCOUNT, window.end).assign(piece=end - 1))
        begin = end
    return frames


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


def _few(like: pd.DataFrame, rows: Sequence[tuple[Any, ...]], what: str, end: datetime) -> pd.DataFrame:
    """Lines of no machine, from (tenant, name, begin, quantity, price, amount)."""
    tenants, names, begins, quantities, prices, amounts = zip(*rows, strict=True) if rows else [()] * 6
    begin = np.array([microseconds(b) for b in begins], np.int64)
    return pd.DataFrame(
        {
            "tenant_id": pd.Categorical(tenants, dtype=like["tenant_id"].dtype),
            "vm_id": pd.Categorical([""] * len(rows), dtype=like["vm_id"].dtype),
            "machine": pd.Categorical(names, dtype=like["machine"].dtype),
            "what": pd.Categorical([what] * len(rows), categories=WHATS),
            "begin": as_instants(begin),
            "end": as_instants(np.full(len(rows), microseconds(end))),
            "quantity": np.array(quantities, np.int64),
            "share": "1",
            "price": _texts(prices),
            "cents": np.array([int(amount / CENT) for amount in amounts], np.int64),
        }
    )


def _whole(made: pd.DataFrame, what: str, window: Window) -> pd.DataFrame:
    """Lines of a whole window."""
    edges = {
        name: as_instants(np.full(len(made), microseconds(instant)))
        for name, instant in (("begin", window.begin), ("end", window.end))
    }
    return made.assign(what=pd.Categorical([what] * len(made), categories=WHATS), share="1", **edges)


def _texts(prices: Sequence[Decimal]) -> npt.NDArray[np.object_]:
    texts = np.empty(len(prices), object)
    texts[:] = [format(price, "f") for price in prices]
    return texts


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    there = [frame[LINES] for frame in frames if len(frame)]
    return pd.concat(there, ignore_index=True) if there else frames[0][LINES]


def _ordered(made: pd.DataFrame) -> pd.DataFrame:
    """By tenant; first machines by name, of each what it pays for by time; then flat items and discounts."""
    if made.empty:
        return made
    of_machine = (made["vm_id"] != "").to_numpy()
    what = np.where(of_machine, 0, made["what"].cat.codes)
    names = [made[name].cat.codes for name in ("vm_id", "machine")]
    by = [since_1970(made["begin"]), made["what"].cat.codes, *names, what, made["tenant_id"].cat.codes]
    return made.take(np.lexsort(by)).reset_index(drop=True)
