"""Machines on hold: their place is taken, nothing starts them, and when their time comes they are made."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import ACTOR, Site
from vdc.claims.hold import hold, instant
from vdc.claims.marks import protect, rename
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, OperationFailed
from vdc.inventory import write_session
from vdc.requests import MachinesRequest
from vdc.schema import Vm, utc_now
from vdc.states import VmState

LATER = "2999-12-01T06:00Z"


def _hold(site: Site, *vms: str, until: str = "") -> None:
    with write_session(site.url) as session:
        at = instant(until) if until else None
        hold(session, MachinesRequest(vms=list(vms)), at, actor=ACTOR)


def _come(site: Site, name: str) -> None:
    """Its time comes."""
    with write_session(site.url) as session:
        session.query(Vm).filter_by(name=name).one().hold_until = utc_now() - timedelta(seconds=1)


def _terminated(site: Site, before: dict[str, object]) -> None:
    run.terminate(*[name for name, state in site.machines().items() if state is not VmState.GONE])
    site.assert_agrees()
    assert site.snapshot() == before


@pytest.mark.prefect
def test_deployed_on_hold_it_has_its_place_and_nothing_else(site: Site) -> None:
    before, calls = site.snapshot(), site.sim.call_count()
    run.deploy(name="web", count=2, hold=True, start="paused")
    assert site.machines() == {"web-1": VmState.HELD, "web-2": VmState.HELD}
    assert site.sim.call_count() == calls, "no host was touched"
    assert site.load() == {"h1": (1, 1, 128), "h2": (1, 1, 128)}
    assert len(site.leases()) == 4
    assert site.events("web-1") == [], "what is not there is not charged"
    site.assert_agrees()
    assert run.reconcile() == []
    run.release("web-1")
    assert site.machines() == {"web-1": VmState.PAUSED, "web-2": VmState.HELD}
    assert site.events("web-1") == ["created", "started"]
    site.assert_agrees()
    _terminated(site, before)
    assert site.events("web-2") == []


@pytest.mark.prefect
def test_released_when_its_time_comes(site: Site) -> None:
    run.deploy(name="web", at=LATER)
    assert run.reconcile() == []
    assert site.machines() == {"web": VmState.HELD}
    _come(site, "web")
    assert [(f.what, f.object, f.action) for f in run.reconcile()] == [("hold is over", "vm/web", "deployed")]
    assert site.machines() == {"web": VmState.RUNNING}
    site.assert_agrees()
    assert run.reconcile() == []


def test_the_time_can_be_changed_and_taken_back(site: Site) -> None:
    run.deploy(name="web", at=LATER)
    _come(site, "web")
    _hold(site, "web")
    assert run.reconcile() == []
    _hold(site, "web", until=LATER)
    assert run.reconcile() == []
    _come(site, "web")
    run.reconcile()
    assert site.machines() == {"web": VmState.RUNNING}


def test_a_stopped_machine_on_hold_is_not_started_by_anybody(site: Site) -> None:
    run.deploy(name="web")
    with pytest.raises(InvalidState, match="`hold` is for a machine that is held or stopped"):
        _hold(site, "web")
    run.power("stop", "web")
    _hold(site, "web", until=LATER)
    site.assert_agrees()
    with pytest.raises(InvalidState, match=r"`vdc vm release web` first"):
        run.power("start", "web")
    assert run.reconcile() == []
    _come(site, "web")
    assert [(f.what, f.action) for f in run.reconcile()] == [("hold is over", "may be started again")]
    assert site.machines() == {"web": VmState.STOPPED}
    run.power("start", "web")
    site.assert_agrees()
    assert site.events("web") == ["created", "started", "stopped", "held", "released", "started"]


def test_one_that_somebody_started_by_hand_is_reported(site: Site) -> None:
    run.deploy(name="web")
    run.power("stop", "web")
    _hold(site, "web")
    from drivers.simulated import hypervisor
    from tasks.environment import environment

    driver = hypervisor(site.spec("web").host, environment().access)
    driver.ensure_started(site.spec("web").domain)
    (finding,) = run.reconcile()
    assert (finding.what, finding.action) == ("machine on hold is not off", "left alone: it is running")
    driver.ensure_stopped(site.spec("web").domain)
    assert run.reconcile() == []


def test_what_fails_when_it_is_released_is_taken_back(site: Site) -> None:
    before = site.snapshot()
    run.deploy(name="web", count=2, hold=True)
    site.sim.fail_next("ensure_started", host="h1")
    with pytest.raises(OperationFailed, match=r"1 of 2 machines failed.*'start' of web-1"):
        run.release("web-1", "web-2")
    assert site.machines() == {"web-1": VmState.FAILED, "web-2": VmState.RUNNING}
    site.assert_agrees()
    run.terminate("web-2")
    assert site.snapshot() == before


@pytest.mark.parametrize("n", range(1, 8))
def test_killed_while_it_is_released(site: Site, start: Processes, n: int) -> None:
    run.deploy(name="web", hold=True)
    if n < 7:
        site.sim.hold("*", skip=n - 1)
        child = start.start(run.release, "web")
        site.sim.wait_until_held()
        child.kill()
        site.sim.clear()
    else:
        from tests.flows.processes import die_at_commit

        child = start.start(die_at_commit, 1, run.release, "web")
        child.process.join(60)
        assert child.process.exitcode == -9
        assert run.reconcile() == []
        assert site.machines() == {"web": VmState.HELD}, "nothing was claimed"
        return
    assert [f.action for f in run.reconcile()] == ["deployment taken forward"]
    assert site.machines() == {"web": VmState.RUNNING}
    site.assert_agrees()


def test_killed_after_a_deployment_on_hold_was_claimed(site: Site, start: Processes) -> None:
    """It is not made by reconcile: it is on hold."""
    from tests.flows.processes import die_at_commit

    child = start.start(die_at_commit, 2, run.deploy_request, {"name": "web", "hold": True})
    child.process.join(60)
    assert child.process.exitcode == -9
    assert run.reconcile() == []
    assert site.machines() == {"web": VmState.HELD}
    site.assert_agrees()


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ("tomorrow", "is no time: write it as"),
        ("2999-12-01T06:00", "has no time zone"),
        ("2001-12-01T06:00Z", "is over already"),
    ],
)
def test_times_that_cannot_be(site: Site, at: str, message: str) -> None:
    before = site.rows()
    with pytest.raises(Invalid, match=message):
        run.deploy(name="web", at=at)
    assert site.rows() == before


def test_no_hold_in_a_cloud(site: Site) -> None:
    with pytest.raises(Invalid, match="cannot burst"):
        run.deploy(name="web", hold=True, burst="when-full")


def test_protected_against_deletion(site: Site) -> None:
    run.deploy(name="web", count=2)
    with write_session(site.url) as session:
        assert list(
            protect(session, MachinesRequest(vms=["web-1"]), protected=True, actor=ACTOR).values()
        ) == ["web-1"]
    before = site.rows()
    with pytest.raises(InvalidState, match=r"web-1 is protected against deletion: `vdc vm unprotect web-1`"):
        run.terminate("web-2", "web-1")
    assert site.rows() == before
    with write_session(site.url) as session:
        protect(session, MachinesRequest(vms=["web-1"]), protected=False, actor=ACTOR)
    run.terminate("web-2", "web-1")
    assert set(site.machines().values()) == {VmState.GONE}


def test_renamed_it_is_the_same_machine(site: Site) -> None:
    run.deploy(name="web", count=2)
    spec = site.spec("web-1")
    with write_session(site.url) as session:
        rename(session, "web-1", "db", actor=ACTOR)
    assert site.spec("db").domain == spec.domain
    assert site.spec("db").context == spec.context, "its guest keeps its hostname"
    site.assert_agrees()
    run.power("stop", "db")
    run.power("start", "db")
    site.assert_agrees()
    assert run.reconcile() == []
    run.deploy(name="web-1")
    with write_session(site.url, commit=False) as session:
        with pytest.raises(Conflict, match="'web-2' is taken"):
            rename(session, "db", "web-2", actor=ACTOR)
        with pytest.raises(Invalid, match="called so already"):
            rename(session, "db", "db", actor=ACTOR)
        with pytest.raises(Invalid, match="is refused"):
            rename(session, "db", "D B", actor=ACTOR)
        with pytest.raises(NotFound):
            rename(session, "nobody", "somebody", actor=ACTOR)
    run.terminate("db")
    with write_session(site.url) as session, pytest.raises(InvalidState, match="gone"):
        rename(session, "db", "web-9", actor=ACTOR)
