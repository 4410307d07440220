"""Snapshots that become too old: what is due, what the sweep removes, leaves and fails at; on a clock that
is set."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.site import ACTOR, Site, once, settings
from vdc import catalog, operations
from vdc.claims.snapshot_sweep import Due, claim_due, keep, read_due
from vdc.clock import running_on
from vdc.errors import Forbidden, Invalid, InvalidState, NotFound, OperationFailed, QuotaExceeded
from vdc.inventory import read_session, write_session
from vdc.operations import Opening
from vdc.quotas import set_quota
from vdc.requests import SnapshotRequest
from vdc.schema import Operation, Snapshot, Vm
from vdc.tariff import Tariff
from vdc.tariff_file import Version
from vdc.tariffs import add_tariff

START = datetime(2026, 10, 5, 12, tzinfo=UTC)


class Calendar:
    def __init__(self) -> None:
        self.now = START

    def days(self, days: float) -> None:
        self.now += timedelta(days=days)


@pytest.fixture
def calendar() -> Iterator[Calendar]:
    made = Calendar()
    with running_on(lambda: made.now):
        yield made


@pytest.fixture
@once
def web(calendar: Calendar, site: Site) -> Site:
    """A site with tenant acme and its machine `web`."""
    with write_session(site.url) as session:
        catalog.create_tenant(session, "acme", actor=ACTOR)
    return site.with_machine("web", tenant="acme")


@pytest.fixture
def vdc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    # This process has been told of its Prefect server before.
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)

    def typed(*arguments: str) -> str:
        go = lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False)  # noqa: E731
        assert guarded(go, arguments) == 0
        return capsys.readouterr().out

    return typed


def _quota(site: Site, days: int | None) -> None:
    with write_session(site.url) as session:
        set_quota(session, {"snapshot_days": days}, tenant="acme", actor=ACTOR)


def _due(site: Site, now: datetime, site_days: int = 0) -> list[tuple[str, str]]:
    with read_session(site.url) as session:
        return [(due.label, due.why) for due in read_due(session, site_days, now)]


def _labels(site: Site) -> set[str]:
    with read_session(site.url) as session:
        return {row.label for row in session.query(Snapshot)}


def _sweep() -> list[tuple[str, str]]:
    return [(one.label, one.outcome) for one in run.sweep_snapshots()]


@pytest.mark.prefect
def test_what_is_over_goes_by_the_ordinary_operation_and_the_rest_stays(
    web: Site, calendar: Calendar
) -> None:
    run.snapshot("web", "week", keep_days=7)
    run.snapshot("web", "month", keep_days=30)
    run.snapshot("web", "ever")
    calendar.days(7 - 1 / 86400)
    assert _sweep() == []
    calendar.days(1 / 86400)
    events = web.events("web")
    assert _sweep() == [("week", "removed")]
    assert _labels(web) == {"month", "ever"}
    web.assert_agrees()
    assert web.events("web") == [*events, "snapshot-removed"]
    with read_session(web.url) as session:
        done = session.query(Operation).filter_by(kind="delete-snapshot").one()
        assert (done.object, done.outcome) == ("vm/web", "done")
        assert done.spec["expired"] == "it was to be kept until then"
    assert _sweep() == []
    calendar.days(1000)
    assert _sweep() == [("month", "removed")]
    assert run.reconcile() == []
    web.assert_agrees()


@pytest.mark.parametrize(
    ("site_days", "quota", "own", "due_after", "why"),
    [
        (0, None, None, None, ""),
        (5, None, None, 5, "setting snapshot_days"),
        (0, 4, None, 4, "quota snapshot_days of tenant acme"),
        (5, 4, None, 4, "quota snapshot_days of tenant acme"),
        (5, 9, None, 5, "setting snapshot_days"),
        (5, 9, 3, 3, "it was to be kept until then"),
    ],
)
def test_the_tightest_limit_counts(
    web: Site,
    calendar: Calendar,
    site_days: int,
    quota: int | None,
    own: int | None,
    due_after: int | None,
    why: str,
) -> None:
    run.snapshot("web", "one", keep_days=own)
    _quota(web, quota)
    if due_after is None:
        assert _due(web, START + timedelta(days=9999), site_days) == []
        return
    end = START + timedelta(days=due_after)
    assert _due(web, end - timedelta(seconds=1), site_days) == []
    assert _due(web, end, site_days) == [("one", why)]


def test_a_limit_of_today_is_one_for_the_snapshots_of_yesterday(web: Site, calendar: Calendar) -> None:
    run.snapshot("web", "old")
    calendar.days(10)
    run.snapshot("web", "new")
    with settings(snapshot_days=8):
        assert _sweep() == [("old", "removed")]
    assert _labels(web) == {"new"}
    web.assert_agrees()


def test_what_cannot_be_is_refused(web: Site) -> None:
    _quota(web, 7)
    for days, error, message in (
        (0, Invalid, "0 days are refused"),
        (4000, Invalid, "4000 days are refused: a snapshot is kept for 1 to 3650 days"),
        (8, QuotaExceeded, r"may be kept for 7 days \(quota snapshot_days of tenant acme\), and 8 are asked"),
    ):
        before = web.rows()
        with pytest.raises(error, match=message):
            run.snapshot("web", "one", keep_days=days)
        assert web.rows() == before
    run.snapshot("web", "one", keep_days=7)
    with write_session(web.url) as session, pytest.raises(Invalid, match="quota snapshots=0"):
        set_quota(session, {"snapshot_days": 0}, tenant="acme", actor=ACTOR)


def test_how_long_one_is_kept_can_be_said_anew(web: Site, calendar: Calendar) -> None:
    run.snapshot("web", "one", keep_days=7)
    calendar.days(5)
    for label, days, error, message in (
        ("none", 9, NotFound, "no snapshot 'none'"),
        ("one", 5, InvalidState, "is older than 5 days: `vdc vm snapshot delete web one` removes it"),
        ("one", 0, Invalid, "0 days are refused"),
    ):
        with pytest.raises(error, match=message), write_session(web.url) as session:
            keep(session, "web", label, days, 0, actor=ACTOR)
    with write_session(web.url) as session:
        keep(session, "web", "one", 20, 0, actor=ACTOR)
    assert _due(web, START + timedelta(days=19)) == []
    assert _due(web, START + timedelta(days=20)) == [("one", "it was to be kept until then")]
    with write_session(web.url) as session:
        keep(session, "web", "one", None, 0, actor=ACTOR)
    assert _due(web, START + timedelta(days=9999)) == []
    web.assert_agrees()


def _one(site: Site) -> Due:
    with read_session(site.url) as session:
        (due,) = read_due(session, 0, START + timedelta(days=9999))
    return due


def test_a_machine_that_is_busy_or_suspended_is_left_and_named(web: Site, calendar: Calendar) -> None:
    run.snapshot("web", "one", keep_days=1)
    calendar.days(2)
    run.power("suspend", "web")
    (left,) = run.sweep_snapshots()
    assert (left.outcome, left.label) == ("left", "one")
    assert "suspended" in left.why
    web.assert_agrees()
    run.power("resume", "web")
    with write_session(web.url) as session:
        vm = session.query(Vm).one()
        claim = operations.open_one(session, Opening("resize", "vm", vm.id, vm.name, {}), actor=ACTOR)
    (left,) = run.sweep_snapshots()
    assert "busy" in left.why or "resize" in left.why
    assert _labels(web) == {"one"}
    with write_session(web.url) as session:
        operations.close(session, claim)
    assert _sweep() == [("one", "removed")]
    web.assert_agrees()


def test_one_that_went_meanwhile_is_no_error(web: Site) -> None:
    run.snapshot("web", "one", keep_days=1)
    due = _one(web)
    run.delete_snapshot("web", "one")
    with write_session(web.url) as session:
        assert claim_due(session, due, actor=ACTOR) is None
    run.snapshot("web", "one", keep_days=1)
    assert _one(web).snapshot_id != due.snapshot_id


def test_what_fails_is_told_and_finished_by_reconcile(web: Site, calendar: Calendar) -> None:
    web.with_machine("db", tenant="acme")
    run.snapshot("web", "one", keep_days=1)
    run.snapshot("db", "two", keep_days=2)
    calendar.days(3)
    web.sim.fail_next("ensure_snapshot_removed")
    with pytest.raises(OperationFailed, match=r"1 of 2 snapshots may still be there.* web, one: "):
        run.sweep_snapshots()
    assert _labels(web) == {"one"}, "one machine's failure does not keep the others"
    assert [finding.object for finding in run.reconcile()] == ["vm/web"]
    assert _labels(web) == set()
    web.assert_agrees()


def test_only_who_works_for_the_site_sweeps(web: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from vdc import access, identity
    from vdc.access import Actor, Role

    user = Actor("al", Role.USER, "u", "t", "acme")
    monkeypatch.setattr(identity, "acting", lambda _: user)
    with pytest.raises(Forbidden, match="may not sweep-snapshots"):
        run.sweep_snapshots()
    assert not access.allowed(Role.TENANT_ADMINISTRATOR, "site.sweep-snapshots", frozenset())


def test_as_typed(web: Site, calendar: Calendar, vdc: Callable[..., str]) -> None:
    with write_session(web.url) as session:
        add_tariff(session, Version(Tariff(snapshot_gib_month=Decimal(730 * 16))), actor=ACTOR)
    create = ("vm", "snapshot", "create", "web", "--label", "one", "--keep-days", "7")
    plan = json.loads(vdc(*create, "--plan", "--json"))
    assert plan["expires_at"] == "2026-10-12T12:00:00+00:00"
    assert "It would be kept until 2026-10-12 12:00Z." in vdc(*create, "--plan")
    vdc(*create)
    (listed,) = json.loads(vdc("vm", "snapshot", "list", "web", "--json"))
    assert listed["expires_at"] == plan["expires_at"]
    assert vdc("vm", "snapshot", "sweep", "--plan", "--json") == "[]\n"
    calendar.days(8)
    before = web.rows()
    (due,) = json.loads(vdc("vm", "snapshot", "sweep", "--plan", "--json"))
    assert (due["vm"], due["label"], due["due_at"]) == ("web", "one", plan["expires_at"])
    # Half of its 128 MiB.
    assert (due["cost_per_hour_before"], due["cost_per_hour"]) == ("1.0000", "0.0000")
    assert "it was to be kept until then" in vdc("vm", "snapshot", "sweep", "--plan")
    assert web.rows() == before
    kept = json.loads(vdc("vm", "snapshot", "keep", "web", "one", "--days", "9", "--json"))
    assert kept["expires_at"] == "2026-10-14T12:00:00+00:00"
    assert "until somebody deletes it" in vdc("vm", "snapshot", "keep", "web", "one", "--always")
    assert "2026-10-14" in vdc("vm", "snapshot", "keep", "web", "one", "--days", "9")
    calendar.days(1)
    (swept,) = json.loads(vdc("vm", "snapshot", "sweep", "--json"))
    assert (swept["vm"], swept["label"], swept["outcome"]) == ("web", "one", "removed")
    assert SnapshotRequest(vm="web").keep_days is None
