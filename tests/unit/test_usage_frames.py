"""From events to what is charged: named cases, and any history against a meter that steps by the minute."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from reports.usage import charges, hours, spans, summary
from tests.unit.histories import event, frame
from vdc.months import Month, Window

DAY = Window(datetime(2026, 10, 5, tzinfo=UTC), datetime(2026, 10, 6, tzinfo=UTC))


def at(hour: float) -> datetime:
    """So many hours into the window."""
    return DAY.begin + timedelta(hours=hour)


def charged(events: pd.DataFrame, window: Window = DAY) -> list[tuple[str, str, float, float, int]]:
    """Machine, what, from and to in hours of the window, quantity."""
    rows = charges(spans(events, window))
    return [
        (
            row.machine,
            row.what,
            (row.begin - window.begin) / pd.Timedelta(hours=1),
            (row.end - window.begin) / pd.Timedelta(hours=1),
            row.quantity,
        )
        for row in rows.itertuples()
    ]


def test_a_running_machine_pays_for_everything() -> None:
    events = frame(
        event("web", "created", at(1)), event("web", "started", at(1)), event("web", "terminated", at(3))
    )
    assert charged(events) == [
        ("web", "vCPU", 1, 3, 1),
        ("web", "memory", 1, 3, 1024),
        ("web", "disk", 1, 3, 10240),
    ]


def test_a_stopped_machine_pays_for_its_disk_in_one_piece() -> None:
    events = frame(
        event("web", "created", at(0)),
        event("web", "started", at(0)),
        event("web", "stopped", at(6)),
        event("web", "started", at(18)),
    )
    assert charged(events) == [
        ("web", "vCPU", 0, 6, 1),
        ("web", "vCPU", 18, 24, 1),
        ("web", "memory", 0, 6, 1024),
        ("web", "memory", 18, 24, 1024),
        ("web", "disk", 0, 24, 10240),
    ]


def test_a_suspended_machine_pays_as_a_stopped_one() -> None:
    events = frame(
        event("web", "created", at(0)),
        event("web", "started", at(0)),
        event("web", "suspended", at(6)),
        event("web", "resumed", at(18)),
    )
    assert charged(events) == [
        ("web", "vCPU", 0, 6, 1),
        ("web", "vCPU", 18, 24, 1),
        ("web", "memory", 0, 6, 1024),
        ("web", "memory", 18, 24, 1024),
        ("web", "disk", 0, 24, 10240),
    ]


def test_a_machine_that_never_started_pays_for_its_disk() -> None:
    assert charged(frame(event("web", "created", at(4)))) == [("web", "disk", 4, 24, 10240)]


def test_an_open_machine_runs_to_the_end_of_the_window() -> None:
    events = frame(event("web", "created", at(-48)), event("web", "started", at(-48)))
    assert [(begin, end) for _, _, begin, end, _ in charged(events)] == [(0, 24)] * 3


def test_a_machine_on_ec2_pays_for_its_instance_while_it_runs() -> None:
    price = "0.0416"
    events = frame(
        event("peak", "created", at(1), hourly_price=price),
        event("peak", "started", at(1), hourly_price=price),
        event("peak", "stopped", at(2), hourly_price=price),
        event("peak", "terminated", at(9), hourly_price=price),
    )
    assert charged(events) == [("peak", "EC2 instance", 1, 2, 1)]


def test_a_machine_on_ec2_that_never_started_pays_nothing() -> None:
    assert charged(frame(event("peak", "created", at(1), hourly_price="0.0416"))) == []


def test_a_new_size_splits_from_the_moment_it_happened_and_only_what_changed() -> None:
    events = frame(
        event("web", "created", at(0), vcpu=1),
        event("web", "started", at(0), vcpu=1),
        event("web", "resized", at(10), vcpu=4),
    )
    assert charged(events) == [
        ("web", "vCPU", 0, 10, 1),
        ("web", "vCPU", 10, 24, 4),
        ("web", "memory", 0, 24, 1024),
        ("web", "disk", 0, 24, 10240),
    ]


def test_resized_by_redeploy_is_two_machines_of_one_name() -> None:
    new = list(event("web", "created", at(12), vcpu=2))
    new[1] = "id-web-again"
    events = frame(
        event("web", "created", at(0)),
        event("web", "started", at(0)),
        event("web", "terminated", at(12)),
        new,
    )
    assert charged(events)[-1] == ("web", "disk", 12, 24, 10240)
    assert spans(events, DAY)["vm_id"].nunique() == 2


def test_created_and_gone_within_a_second() -> None:
    gone = at(1) + timedelta(microseconds=400_000)
    events = frame(
        event("blip", "created", at(1)), event("blip", "started", at(1)), event("blip", "terminated", gone)
    )
    lasted = charges(spans(events, DAY))
    assert (lasted["end"] - lasted["begin"]).tolist() == [pd.Timedelta(microseconds=400_000)] * 3


def test_created_and_gone_at_once_is_nothing() -> None:
    assert charged(frame(event("web", "created", at(1)), event("web", "terminated", at(1)))) == []


def test_a_charge_that_paused_after_the_fact() -> None:
    """A recovery tells both at its end: that the machine was last seen at 4, and that it runs since 7."""
    events = frame(
        event("web", "created", at(0)),
        event("web", "started", at(0)),
        event("web", "started", at(7)),
        event("web", "stopped", at(4)),
    )
    assert [row[2:4] for row in charged(events) if row[1] == "vCPU"] == [(0, 4), (7, 24)]


def test_what_stops_and_starts_at_the_same_instant_runs_on() -> None:
    events = frame(
        event("web", "created", at(0)),
        event("web", "started", at(0)),
        event("web", "started", at(4)),
        event("web", "stopped", at(4)),
    )
    assert [row[2:4] for row in charged(events) if row[1] == "vCPU"] == [(0, 24)]


def test_what_happened_before_a_machine_was_there_is_nothing() -> None:
    events = frame(
        event("web", "stopped", at(2)), event("web", "created", at(5)), event("web", "started", at(5))
    )
    assert {row[2:4] for row in charged(events)} == {(5, 24)}


def test_outside_the_window_is_nothing() -> None:
    events = frame(
        event("old", "created", at(-5)), event("old", "terminated", at(0)), event("new", "created", at(24))
    )
    assert charged(events) == []
    assert summary(charges(spans(frame(), DAY))).empty


def test_a_month_with_a_change_of_clocks_has_745_or_743_hours() -> None:
    for month, zone, expected in (
        ("2026-10", "Europe/Madrid", 745),
        ("2026-03", "Europe/Madrid", 743),
        ("2026-10", "UTC", 744),
        ("2026-11", "America/New_York", 721),
    ):
        window = Month.parse(month).window(zone)
        events = frame(
            event("web", "created", "2025-01-01T00:00:00+00:00"),
            event("web", "started", "2025-01-01T00:00:00+00:00"),
        )
        assert window.hours == expected
        assert set(hours(charges(spans(events, window)))) == {expected}


# -- any history ------------------------------------------------------------------------------------------

MINUTES = 240
KINDS = ("created", "started", "stopped", "suspended", "resumed", "resized", "terminated")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Events at whole minutes, also before and after the window, in any order, some of them twice."""
    rows = []
    for n in range(draw(st.integers(1, 4))):
        price = draw(st.sampled_from(["", "", "0.05"]))
        for minute in draw(st.lists(st.integers(-60, MINUTES + 30), min_size=1, max_size=8)):
            kind = draw(st.sampled_from(KINDS))
            vcpu, memory = draw(st.sampled_from([(1, 512), (2, 512), (2, 2048)]))
            when = DAY.begin + timedelta(minutes=minute)
            rows.append(
                event(f"vm{n}", kind, when, vcpu=vcpu, memory_mib=memory, disk_mib=64, hourly_price=price)
            )
    again = draw(st.lists(st.sampled_from(rows), max_size=4))
    mixed: list[tuple[Any, ...]] = draw(st.permutations(rows + again))
    return mixed


def minute_meter(rows: list[tuple[Any, ...]], minutes: int) -> Counter[tuple[str, str]]:
    """Unit minutes by machine and item, one step a minute; knows nothing of frames."""
    order = ["created", "resized", "stopped", "suspended", "started", "resumed", "terminated"].index
    runs = {"created": False, "stopped": False, "suspended": False, "started": True, "resumed": True}
    used: Counter[tuple[str, str]] = Counter()
    for machine in {row[2] for row in rows}:
        # Equal in time and kind but not in size: the larger one is taken to be the later.
        mine = sorted((r for r in rows if r[2] == machine), key=lambda r: (r[4], order(r[3]), r[5:8]))
        there = ended = running = False
        size: Any = None
        for minute in range(-60, minutes):
            now = DAY.begin + timedelta(minutes=minute)
            while mine and mine[0][4] <= now:
                row = mine.pop(0)
                kind, size = row[3], row
                there = there or kind in ("created", "started", "resumed")
                ended = ended or kind == "terminated"
                running = runs.get(kind, running)
            if minute < 0 or not there or ended:
                continue
            if size[8] == "ec2":
                used[machine, "EC2 instance"] += running
                continue
            used[machine, "disk"] += size[7]
            if running:
                used[machine, "vCPU"] += size[5]
                used[machine, "memory"] += size[6]
    return +used


def unit_minutes(rows: list[tuple[Any, ...]], window: Window) -> Counter[tuple[str, str]]:
    used: Counter[tuple[str, str]] = Counter()
    for row in charges(spans(frame(*rows), window)).itertuples():
        minutes = (row.end - row.begin) / pd.Timedelta(minutes=1)
        assert minutes == int(minutes)
        used[row.machine, row.what] += int(minutes) * row.quantity
    return used


WINDOW = Window(DAY.begin, DAY.begin + timedelta(minutes=MINUTES))


@settings(max_examples=60, deadline=None)
@given(histories())
def test_any_history_is_what_a_meter_that_steps_by_the_minute_counts(rows: list[tuple[Any, ...]]) -> None:
    assert unit_minutes(rows, WINDOW) == minute_meter(rows, MINUTES)


@settings(max_examples=25, deadline=None)
@given(histories(), st.lists(st.integers(1, MINUTES - 1), max_size=4, unique=True))
def test_windows_that_tile_add_up(rows: list[tuple[Any, ...]], cuts: list[int]) -> None:
    edges = [DAY.begin + timedelta(minutes=m) for m in (0, *sorted(cuts), MINUTES)]
    tiles = [unit_minutes(rows, Window(*pair)) for pair in pairwise(edges)]
    assert sum(tiles, Counter()) == unit_minutes(rows, WINDOW)


@settings(max_examples=25, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_twice_and_in_another_order_is_the_same(rows: list[tuple[Any, ...]], dice: random.Random) -> None:
    told = [*rows, *dice.choices(rows, k=3)]
    dice.shuffle(told)
    pd.testing.assert_frame_equal(charges(spans(frame(*rows), WINDOW)), charges(spans(frame(*told), WINDOW)))


@settings(max_examples=25, deadline=None)
@given(histories())
def test_the_parts_of_a_machine_never_exceed_the_clock(rows: list[tuple[Any, ...]]) -> None:
    of = charges(spans(frame(*rows), WINDOW))
    assert (of["begin"] >= WINDOW.begin).all()
    assert (of["end"] <= WINDOW.end).all()
    assert (of["begin"] < of["end"]).all()
    for _, parts in of.groupby(["vm_id", "what"]):
        assert (parts["begin"].iloc[1:].array >= parts["end"].iloc[:-1].array).all()


def test_months_tile() -> None:
    for zone in ("UTC", "Europe/Madrid", "America/New_York", "Asia/Kathmandu", "Pacific/Apia", "Asia/Beirut"):
        month = Month(2010, 11)
        for _ in range(240):
            window, following = month.window(zone), month.following.window(zone)
            assert window.end == following.begin
            assert Month.of(window.begin, zone) == month
            assert Month.of(window.end - timedelta(microseconds=1), zone) == month
            assert month.following.preceding == month
            month = month.following
