"""Any history of 50 machines, billed, against a meter that steps by the minute."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.levels import levels, since_1970
from reports.lines import lines
from tests.unit.histories import event, frame
from tests.unit.minute_meter import Key, metered
from vdc.months import Window
from vdc.tariff import Discount, Flat, Shares, Tariff
from vdc.tariff_book import TariffBook
from vdc.tariff_file import Version

MACHINES = 50
MINUTES = 240
BEGIN = datetime(2026, 10, 14, 22, tzinfo=UTC)
"""Two hours before the tariff changes."""
WINDOW = Window(BEGIN, BEGIN + timedelta(minutes=MINUTES))
MONTH_HOURS = Decimal(744)

KINDS = ("created", "started", "stopped", "suspended", "resumed", "resized", "held", "lost", "terminated",
         "snapshot-taken", "address-leased", "owner-changed", "traffic")  # fmt: skip

OLD = Tariff(
    snapshot_gib_month=Decimal("0.03"),
    traffic_gib=Decimal("0.1"),
    licence_hour={"windows": Decimal("0.05")},
    held=Shares(vcpu=Decimal("0.25"), memory=Decimal("0.25")),
)
NEW = Tariff(
    vcpu_hour=Decimal("0.0123456789"),
    address_hour=Decimal("0.005"),
    snapshot_gib_month=Decimal("0.04"),
    stopped=Shares(vcpu=Decimal("0.1"), disk=Decimal("0.5"), licence=Decimal(1)),
    suspended=Shares(memory=Decimal("0.1")),
)
BOOK = TariffBook.of([Version(OLD), Version(NEW, valid_from=date(2026, 10, 15))])

seeds = st.integers(0, 2**32)


def history(seed: int) -> list[tuple[Any, ...]]:
    """Events at whole minutes, also before and after the window, in any order, some of them twice."""
    dice = random.Random(seed)
    rows = []
    for n in range(MACHINES):
        price = dice.choice(["", "", "", "0.05"])
        image = dice.choice(["windows", "debian"])
        for minute in (dice.randint(-90, MINUTES + 30) for _ in range(dice.randint(1, 8))):
            kind = dice.choice(KINDS)
            vcpu, memory = dice.choice([(1, 512), (2, 512), (2, 2048)])
            told: dict[str, Any] = {
                "vcpu": vcpu,
                "memory_mib": memory,
                "disk_mib": dice.choice([64, 10240]),
                "snapshot_mib": dice.choice([None, 0, 1000]),
                "addresses": dice.choice([None, 0, 2]),
                "image": image if kind == "created" else "",
                "sent": dice.randint(1, 2**40) if kind == "traffic" else 0,
                "tenant": dice.choice(["t-acme", "t-beta"]),
            }
            rows.append(event(f"vm{n}", kind, BEGIN + timedelta(minutes=minute), hourly_price=price, **told))
    rows += dice.choices(rows, k=20)
    dice.shuffle(rows)
    return rows


def billed(rows: Sequence[tuple[Any, ...]], window: Window = WINDOW) -> pd.DataFrame:
    pieces = BOOK.pieces("t-acme", window, "UTC")
    return lines(levels(frame(*rows)), pieces, MONTH_HOURS, {"t-acme": None, "t-beta": None})


def unit_minutes(of: pd.DataFrame) -> Counter[Key]:
    """Of lines, what the meter counts."""
    used: Counter[Key] = Counter()
    for row in of.itertuples():
        minutes = 1 if row.what == "traffic" else (row.end - row.begin) / pd.Timedelta(minutes=1)
        assert minutes == int(minutes)
        if Decimal(row.price):
            used[row.tenant_id, row.machine, row.what, Decimal(row.price)] += row.quantity * int(minutes)
    return used


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_it_is_what_a_meter_that_steps_by_the_minute_counts(seed: int) -> None:
    rows = history(seed)
    assert unit_minutes(billed(rows)) == metered(rows, BEGIN, [OLD] * 120 + [NEW] * (MINUTES - 120))


@settings(max_examples=8, deadline=None)
@given(seeds, st.lists(st.integers(1, MINUTES - 1), max_size=3, unique=True))
def test_windows_that_tile_add_up(seed: int, cuts: list[int]) -> None:
    rows = history(seed)
    edges = [BEGIN + timedelta(minutes=m) for m in (0, *sorted(cuts), MINUTES)]
    tiles = [unit_minutes(billed(rows, Window(*pair))) for pair in pairwise(edges)]
    assert sum(tiles, Counter()) == unit_minutes(billed(rows))


@settings(max_examples=8, deadline=None)
@given(seeds, st.randoms(use_true_random=False))
def test_twice_and_in_another_order_is_the_same_bill(seed: int, dice: random.Random) -> None:
    rows = history(seed)
    told = [*rows, *dice.choices(rows, k=50)]
    dice.shuffle(told)
    pd.testing.assert_frame_equal(billed(rows), billed(told))


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_each_line_is_exact_and_no_machine_has_more_than_the_clock(seed: int) -> None:
    of = billed(history(seed))
    hour_us = 3_600_000_000
    for row in of.itertuples():
        exact = Fraction(Decimal(row.price)) * row.quantity
        if row.what == "traffic":
            exact /= 2**30
        else:
            exact *= Fraction((row.end - row.begin) // timedelta(microseconds=1), hour_us)
        if row.what in ("memory", "disk", "snapshots"):
            exact /= 1024
        if row.what in ("disk", "snapshots"):
            exact /= 744
        # In whole cents, half up, without a decimal number in sight.
        assert row.cents == (2 * 100 * exact + 1) // 2
    timed = of[of["what"] != "traffic"]
    assert (since_1970(timed["begin"]) < since_1970(timed["end"])).all()
    assert (timed["begin"] >= WINDOW.begin).all()
    assert (timed["end"] <= WINDOW.end).all()
    for _, parts in timed.groupby(["vm_id", "what"], observed=True):
        parts = parts.sort_values("begin")
        assert (parts["begin"].iloc[1:].array >= parts["end"].iloc[:-1].array).all()


def test_flat_items_and_discounts_are_of_the_sum() -> None:
    """Two tariffs with the same steps are one sum; each flat item is for its part of the month."""
    steps = (Discount(Decimal(1), Decimal(10)), Discount(Decimal(2), Decimal(50)))
    flat = Flat("Support", Decimal("744"))  # one an hour
    book = TariffBook.of(
        Version(Tariff(flat=(flat,), discounts=steps, vcpu_hour=Decimal(p)), valid_from=day)
        for p, day in ((0, None), (1, date(2026, 10, 15)))
    )
    pieces = book.pieces("t-acme", WINDOW, "UTC")
    since = {"t-acme": None, "t-late": BEGIN + timedelta(hours=3), "t-later": WINDOW.end}
    made = lines(levels(frame()), pieces, MONTH_HOURS, since)
    assert [(row.tenant_id, row.machine, row.what, row.cents, row.piece) for row in made.itertuples()] == [
        ("t-acme", "Support", "flat item", 200, 0),
        ("t-acme", "Support", "flat item", 200, 1),
        ("t-acme", "10% of what is above 1 EUR", "discount", -10, 1),
        ("t-acme", "50% of what is above 2 EUR", "discount", -100, 1),
        ("t-late", "Support", "flat item", 100, 1),
    ]
