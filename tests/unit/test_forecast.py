"""What a month will have cost, and budgets."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from reports.forecast import bounds
from reports.running import running_month
from tests.unit.histories import event
from tests.unit.ledger import ACTOR, LIST_PRICES, Ledger
from vdc.billing import read_tenants
from vdc.budgets import Spent, crossed, read_untold, record_crossings, record_told, thresholds
from vdc.customers import change_customer
from vdc.errors import Invalid
from vdc.inventory import read_session, write_session
from vdc.schema import BudgetAlert

COST, FORECAST = Decimal("10.00"), Decimal("20.00")


@pytest.mark.parametrize(
    ("days", "low", "high", "seen"),
    [
        ([1.0] * 4, None, None, 4),
        ([0.0] * 20 + [1.0] * 4, None, None, 4),
        ([0.0] * 20 + [1.0, 3.0, 0.5, 1.0, 1.0], Decimal("15.00"), Decimal("40.00"), 5),
        ([9.0] + [2.0] * 14, Decimal("20.00"), Decimal("30.00"), 14),
        ([0.1] * 14, Decimal("11.00"), FORECAST, 14),
        ([], None, None, 0),
    ],
)
def test_bounds_are_those_of_the_last_days(
    days: list[float], low: Decimal | None, high: Decimal | None, seen: int
) -> None:
    found = bounds(days, COST, FORECAST, 10.0)
    assert (found.low, found.high, found.days) == (low, high, seen)


def test_the_running_month_of_a_machine_that_grew(tmp_path: Path) -> None:
    """240 hours at one vCPU and one GiB, then 4 vCPU: 1.2 cents an hour, then 3.6; 10 GiB of disk."""
    ledger = Ledger.create(tmp_path, zone="UTC")
    ledger.write(
        event("web", "created", "2026-10-20T00:00:00+00:00"),
        event("web", "started", "2026-10-20T00:00:00+00:00"),
        event("web", "resized", "2026-11-11T00:00:00+00:00", vcpu=4),
    )
    now = datetime(2026, 11, 13, tzinfo=UTC)
    with read_session(ledger.url) as session:
        (row, _) = running_month(session, read_tenants(session), LIST_PRICES, now)
    disk = Decimal("0.50") * 12 / 30
    assert row["cost"] == Decimal("1.92") + Decimal("1.54") + Decimal("1.15") + disk
    rest = Decimal("18") * Decimal("0.864") + Decimal("0.50") * 18 / 30
    assert abs(row["forecast"] - row["cost"] - rest) <= Decimal("0.02")
    # The last 14 days: 12 before it grew, 2 after.
    assert row["forecast_history_days"] == 14
    assert abs(row["forecast_low"] - row["cost"] - 18 * (Decimal("0.288") + disk / 12)) <= Decimal("0.05")
    assert abs(row["forecast_high"] - row["forecast"]) <= Decimal("0.05")
    assert (row["budget"], row["budget_used_percent"]) == (None, None)


# -- budgets ----------------------------------------------------------------------------------------------


def spent(cost: str, month: str = "2026-11", budget: str = "60") -> Spent:
    return Spent("acme", month, Decimal(cost), Decimal(budget), "EUR")


@pytest.mark.parametrize(
    ("cost", "budget", "reached"),
    [
        ("0", "60", []),
        ("29.99", "60", []),
        ("30.00", "60", [50]),
        ("59.99", "60", [50, 80]),
        ("60.00", "60", [50, 80, 100]),
        ("0", "0", []),
        ("0.01", "0", [50, 80, 100]),
    ],
)
def test_a_part_is_reached_to_the_cent(cost: str, budget: str, reached: list[int]) -> None:
    assert crossed(spent(cost, budget=budget), (50, 80, 100)) == reached


def test_each_part_is_written_down_once_a_month_and_told_until_it_was_told(tmp_path: Path) -> None:
    ledger = Ledger.create(tmp_path)

    def watch(*rows: Spent) -> list[int]:
        with write_session(ledger.url) as session:
            record_crossings(session, rows, (50, 80, 100))
        with read_session(ledger.url) as session:
            return [alert.percent for alert in read_untold(session)]

    assert watch(spent("10")) == []
    assert watch(spent("31")) == [50]
    assert watch(spent("55")) == [50, 80], "nobody was told yet"
    with write_session(ledger.url) as session:
        alerts = read_untold(session)
        record_told(session, alerts)
    assert watch(spent("56")) == []
    assert watch(spent("20")) == [], "it became cheaper: nothing is told again"
    assert watch(spent("55")) == []
    assert watch(spent("61")) == [100]
    assert watch(spent("31", month="2026-12")) == [100, 50]
    with read_session(ledger.url) as session:
        assert len(set(session.scalars(select(BudgetAlert.event_id)))) == 4


@pytest.mark.parametrize("text", ["", "x", "50,,80", "80,50", "50,50", "0,50", "1001"])
def test_thresholds_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="budget_alert_percent"):
        thresholds(text)


def test_vdc_usage_says_how_it_forecasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.unit.test_bill_cli import vdc

    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    ledger = Ledger.create(tmp_path)
    values: dict[str, Any] = {"monthly_budget": Decimal(60)}
    with write_session(ledger.url) as session:
        change_customer(session, "acme", values, actor=ACTOR)
    assert vdc("usage", "--tenant", "acme") == 0
    shown = capsys.readouterr()
    assert "not enough history (0 days)" in shown.out
    assert "0% of 60" in shown.out
    assert "every machine stays as it is now" in shown.err
