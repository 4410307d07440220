"""From events to what is charged: named cases. Any history: test_any_history.py."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd

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
