"""Snapshots on simulated hosts: what is refused, what comes back, and that nothing half-made is left,
whatever fails and whoever is killed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes
from tests.flows.site import Site, once, settings
from vdc.errors import (
    Conflict,
    Invalid,
    InvalidState,
    NotFound,
    OperationFailed,
    QuotaExceeded,
    Unsupported,
)
from vdc.inventory import read_session, write_session
from vdc.model import Abilities
from vdc.requests import RevertRequest, SnapshotRequest
from vdc.schema import Cloud, Snapshot, Vm
from vdc.states import VmState

MAKING = ("hypervisor.ensure_snapshot", "hypervisor.read_snapshots")
REVERTING = (*["network.ensure_network"] * 2, "network.ensure_ports", "hypervisor.ensure_reverted")
DELETING = ("hypervisor.ensure_snapshot_removed",)


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine `web` that runs on h1; what it writes is `a` on its disk, `A` in its memory."""
    site.with_machine("web")
    write(site, disk="a", memory="A")
    return site


def write(site: Site, **what: str) -> None:
    site.sim.write_guest(site.spec("web").domain, **what)


def guest(site: Site) -> tuple[str, str]:
    """What is on its disk and in its memory."""
    return site.sim.read_guest(site.spec("web").domain)


def stop(site: Site) -> None:
    site.sim.guest_shutdown(site.spec("web").domain)
    run.reconcile()


def snapshots(site: Site) -> dict[str, tuple[str, str | None, bool]]:
    """Kind, parent's label, and whether the machine goes on from it, by label."""
    with read_session(site.url) as session:
        rows = session.query(Snapshot).all()
        labels = {row.id: row.label for row in rows}
        return {row.label: (row.kind, labels.get(row.parent_id or ""), row.current) for row in rows}


# For processes: functions that can be pickled.
def make(label: str) -> str:
    return run.snapshot("web", label)


def revert(label: str) -> str:
    return run.revert("web", label)


def delete(label: str) -> str:
    return run.delete_snapshot("web", label)


ACTS: dict[str, Callable[[str], str]] = {"make": make, "revert": revert, "delete": delete}


# -- what they are for -----------------------------------------------------------------------------------


@pytest.mark.prefect
def test_memory_and_disk_come_back_and_the_bill_goes_on(web: Site) -> None:
    events = web.events("web")
    before = web.sim.call_count()
    run.snapshot("web", "first")
    assert tuple(c.call for c in web.sim.log(since=before)) == MAKING
    write(web, disk="b", memory="B")
    before = web.sim.call_count()
    run.revert("web", "first")
    assert tuple(c.call for c in web.sim.log(since=before)) == REVERTING
    assert guest(web) == ("a", "A")
    assert web.machines() == {"web": VmState.RUNNING}
    web.assert_agrees()
    assert web.events("web") == [*events, "snapshot-taken"]
    before = web.sim.call_count()
    run.delete_snapshot("web", "first")
    assert tuple(c.call for c in web.sim.log(since=before)) == DELETING
    assert web.events("web") == [*events, "snapshot-taken", "snapshot-removed"]
    assert snapshots(web) == {}
    web.assert_agrees()
    assert run.reconcile() == []


@pytest.mark.prefect
def test_disks_alone_come_back_and_it_starts_anew(web: Site) -> None:
    events = web.events("web")
    run.snapshot("web", "first", "disk")
    write(web, disk="b")
    run.revert("web", "first")
    assert guest(web) == ("a", "")
    assert web.machines() == {"web": VmState.RUNNING}
    assert web.events("web") == [*events, "snapshot-taken"]
    web.assert_agrees()


def test_a_stopped_machine_runs_again_by_its_memory_and_is_billed_for_it(web: Site) -> None:
    run.snapshot("web", "on")
    stop(web)
    run.snapshot("web", "off")
    assert {label: kind for label, (kind, _, _) in snapshots(web).items()} == {"on": "memory", "off": "disk"}
    run.revert("web", "on")
    assert web.machines() == {"web": VmState.RUNNING}
    taken = "snapshot-taken"
    assert web.events("web") == ["created", "started", taken, "stopped", taken, "started"]
    web.assert_agrees()
    stop(web)
    run.revert("web", "off")
    assert web.machines() == {"web": VmState.STOPPED}
    assert web.events("web") == ["created", "started", taken, "stopped", taken, "started", "stopped"]
    web.assert_agrees()


def test_a_machine_that_never_ran_has_its_disks_kept(site: Site) -> None:
    run.deploy(count=1, name="web", start="stopped")
    write(site, disk="a")
    run.snapshot("web", "new")
    write(site, disk="b")
    run.revert("web", "new")
    assert guest(site) == ("a", "")
    assert site.machines() == {"web": VmState.STOPPED}
    assert site.events("web") == ["created", "snapshot-taken"]
    site.assert_agrees()


def test_they_make_a_tree(web: Site) -> None:
    for label in ("a", "b"):
        run.snapshot("web", label)
    run.revert("web", "a")
    run.snapshot("web", "c")
    assert snapshots(web) == {
        "a": ("memory", None, False),
        "b": ("memory", "a", False),
        "c": ("memory", "a", True),
    }
    run.delete_snapshot("web", "a")
    assert snapshots(web) == {"b": ("memory", None, False), "c": ("memory", None, True)}
    run.snapshot("web", "d")
    run.delete_snapshot("web", "d")
    assert snapshots(web)["c"] == ("memory", None, True)
    web.assert_agrees()


def test_they_get_names_and_go_with_the_machine(web: Site) -> None:
    for _ in range(3):
        run.snapshot("web")
    run.delete_snapshot("web", "snap-2")
    run.snapshot("web")
    assert sorted(snapshots(web)) == ["snap-1", "snap-2", "snap-3"]
    run.terminate("web")
    assert snapshots(web) == {}
    assert web.sim.snapshots() == {}
    web.assert_agrees()


def test_a_domain_that_was_lost_has_its_snapshots_again(web: Site) -> None:
    run.snapshot("web", "first")
    write(web, disk="b")
    web.sim.crash(web.spec("web").domain)
    run.reconcile()
    run.revert("web", "first")
    assert guest(web) == ("a", "A")
    web.assert_agrees()


# -- what is refused -------------------------------------------------------------------------------------


def _ten(site: Site) -> None:
    for _ in range(10):
        run.snapshot("web", kind="disk")


def _unready(site: Site) -> None:
    run.snapshot("web", "first")
    with write_session(site.url) as session:
        session.query(Snapshot).update({"ready": False})


def _cloud(site: Site) -> None:
    run.snapshot("web", "first")
    with write_session(site.url) as session:
        session.add(Cloud(id="c", name="c", uri="simulated:", currency="EUR", prices_as_of="2026-11-01"))
        session.flush()
        session.query(Vm).update({"cloud_id": "c", "host_id": None})


def _first(site: Site) -> None:
    run.snapshot("web", "first")


def _leaving(site: Site) -> None:
    run.snapshot("web", "first")
    with write_session(site.url) as session:
        session.query(Vm).update({"state": VmState.TERMINATING})


REFUSALS: dict[str, tuple[Callable[[Site], object], Callable[[], object], type[Exception], str]] = {
    "no such machine": (_first, lambda: run.snapshot("db"), NotFound, "no machine 'db'"),
    "bad label": (_first, lambda: make("First!"), Invalid, "Snapshot name 'First!' is refused"),
    "label taken": (_first, lambda: make("first"), Conflict, "web has a snapshot 'first' already"),
    "too many": (_ten, lambda: make("more"), QuotaExceeded, "10 snapshots, and may have 10"),
    "memory of what is off": (
        stop,
        lambda: run.snapshot("web", kind="memory"),
        InvalidState,
        "is stopped: a snapshot with memory is made of a machine that is running",
    ),
    "memory of what is paused": (
        lambda site: run.deploy(count=1, name="p", start="paused"),
        lambda: run.snapshot("p"),
        InvalidState,
        "is paused: a snapshot of disks alone is made of a machine that is running or stopped",
    ),
    "leaving": (_leaving, lambda: make("more"), InvalidState, "is terminating"),
    "revert of what leaves": (_leaving, lambda: revert("first"), InvalidState, "is terminating"),
    "deletion from what leaves": (_leaving, lambda: delete("first"), InvalidState, "is terminating"),
    "unknown": (_first, lambda: revert("other"), NotFound, "no snapshot 'other'. Known: first"),
    "none": (lambda site: None, lambda: delete("other"), NotFound, "It has none"),
    "half-made": (_unready, lambda: revert("first"), InvalidState, "not whole: `vdc reconcile` removes"),
    "in a cloud": (_cloud, lambda: make("more"), Unsupported, "is in a cloud"),
    "back in a cloud": (_cloud, lambda: revert("first"), Unsupported, "is in a cloud"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_is_refused_and_nothing_is_touched(web: Site, why: str) -> None:
    prepare, act, error, message = REFUSALS[why]
    prepare(web)
    before, calls = web.rows(), web.sim.call_count()
    with pytest.raises(error, match=message):
        act()
    assert web.rows() == before
    assert web.sim.call_count() == calls


def test_what_drivers_cannot_do_is_refused(web: Site) -> None:
    from tasks.abilities import abilities
    from vdc.claims.snapshot import claim_revert, claim_snapshot

    run.snapshot("web", "first")
    with settings(database_url=web.url):
        can = abilities()
    for abilities_, message in (
        (Abilities(snapshot_disks=can.snapshot_disks), "driver of host h1 makes no snapshots"),
        (Abilities(snapshotting=can.snapshotting), "only qcow2 disks hold snapshots"),
    ):
        with write_session(web.url, commit=False) as session, pytest.raises(Unsupported, match=message):
            claim_snapshot(session, SnapshotRequest(vm="web"), abilities_, 10, actor="test")
        with write_session(web.url, commit=False) as session, pytest.raises(Unsupported, match=message):
            claim_revert(session, RevertRequest(vm="web", label="first"), abilities_, actor="test")


def test_a_machine_with_snapshots_does_not_migrate(web: Site) -> None:
    run.snapshot("web", "first")
    with pytest.raises(Unsupported, match=r"snapshots \(first\)"):
        run.migrate("web")
    run.delete_snapshot("web", "first")
    run.migrate("web")
    run.snapshot("web", "there")
    web.assert_agrees()


@pytest.mark.parametrize("act", ACTS)
def test_one_at_a_time(web: Site, start: Processes, act: str) -> None:
    run.snapshot("web", "first")
    label = "second" if act == "make" else "first"
    web.sim.hold("*")
    child = start.start(ACTS[act], label)
    web.sim.wait_until_held()
    for other in (lambda: make("third"), lambda: revert("first"), lambda: run.terminate("web")):
        with pytest.raises(Conflict, match="is busy"):
            other()
    web.sim.release("*")
    assert child.answer().error == ""
    web.assert_agrees()


# -- failures --------------------------------------------------------------------------------------------

WITHOUT_MIDDLE = {"network.ensure_network", "hypervisor.read_snapshots", "hypervisor.ensure_snapshot_removed"}


def _succeeds(call: str, form: str) -> bool:
    return form in PASSING or (form == "stops-halfway" and call in WITHOUT_MIDDLE)


@pytest.mark.parametrize(
    ("kind", "call", "form"), spread([(kind, call) for kind in ("memory", "disk") for call in MAKING])
)
def test_a_snapshot_that_fails_is_taken_back(web: Site, call: str, form: str, kind: str) -> None:
    web.sim.fail_next(call, **FORMS[form])
    if _succeeds(call, form):
        run.snapshot("web", "first", kind)
        assert list(snapshots(web)) == ["first"]
    else:
        with pytest.raises(
            OperationFailed, match="no snapshot 'first' of web: Step 'make snapshot' of web on"
        ):
            run.snapshot("web", "first", kind)
        assert snapshots(web) == {}
        assert (web.errors()["vm/web"] or "").startswith("There is no snapshot 'first'")
        web.assert_agrees()
        run.snapshot("web", "first", kind)
    web.assert_agrees()
    assert guest(web) == ("a", "A")
    assert run.reconcile() == []


def test_what_cannot_be_taken_back_now_is_removed_later(web: Site, start: Processes) -> None:
    run.snapshot("web", "good")
    web.sim.hold("read_snapshots")
    child = start.start(make, "first")
    web.sim.wait_until_held()
    web.sim.host_down("h1")
    web.sim.release("read_snapshots")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "`vdc reconcile`" in answer.message
    assert [f.what for f in run.reconcile()] == ["host unreachable"]
    with pytest.raises(InvalidState, match="not whole"):
        run.revert("web", "first")
    web.sim.host_up("h1")
    assert [(f.what, f.action) for f in run.reconcile()] == [
        ("unfinished snapshot", "snapshot first removed")
    ]
    assert list(snapshots(web)) == ["good"]
    web.assert_agrees()


@pytest.mark.parametrize("form", FORMS)
def test_a_removal_that_fails_is_finished_later(web: Site, form: str) -> None:
    call = DELETING[0]
    run.snapshot("web", "first")
    web.sim.fail_next(call, **FORMS[form])
    if _succeeds(call, form):
        run.delete_snapshot("web", "first")
    else:
        with pytest.raises(OperationFailed, match="'first' of web may still be there"):
            run.delete_snapshot("web", "first")
        assert [f.action for f in run.reconcile()] == ["snapshot first removed"]
    assert snapshots(web) == {}
    web.assert_agrees()
    assert run.reconcile() == []


@pytest.mark.parametrize(
    ("call", "kind", "off", "form"),
    spread(
        [
            (REVERTING[0], "memory", False),
            (REVERTING[2], "memory", False),
            (REVERTING[2], "memory", True),
            (REVERTING[2], "disk", False),
            (REVERTING[2], "disk", True),
        ]
    ),
)
def test_a_revert_that_fails_leaves_it_whole_and_can_be_done_again(
    web: Site, call: str, form: str, kind: str, off: bool
) -> None:
    run.snapshot("web", "first", kind)
    write(web, disk="b", memory="B")
    if off:
        stop(web)
    web.sim.fail_next(call, **FORMS[form])
    if _succeeds(call, form):
        run.revert("web", "first")
    else:
        with pytest.raises(
            OperationFailed, match=r"web may not be back at 'first': Step .* revert again"
        ) as error:
            run.revert("web", "first")
        # What is written down is what is there, and the bill with it.
        web.assert_agrees()
        assert f"It is {web.machines()['web']} now" in str(error.value)
        assert run.reconcile() == []
        run.revert("web", "first")
    assert guest(web)[0] == "a"
    if kind == "memory":
        assert guest(web) == ("a", "A")
        assert web.machines() == {"web": VmState.RUNNING}
    web.assert_agrees()
    assert run.reconcile() == []


def test_a_host_that_is_lost_in_the_middle_of_a_revert(web: Site, start: Processes) -> None:
    run.snapshot("web", "first")
    web.sim.hold("ensure_reverted")
    child = start.start(revert, "first")
    web.sim.wait_until_held()
    web.sim.host_down("h1", domains="die")
    web.sim.release("ensure_reverted")
    assert "It was not seen what it is now" in child.answer().message
    assert web.machines() == {"web": VmState.RUNNING}
    web.sim.host_up("h1")
    assert [f.action for f in run.reconcile()] == ["adopted as stopped"]
    web.assert_agrees()
    run.revert("web", "first")
    assert guest(web) == ("a", "A")
    web.assert_agrees()


# -- kill -9 ---------------------------------------------------------------------------------------------


def _kill(site: Site, start: Processes, n: int, act: Callable[[str], str], label: str) -> None:
    """Killed before its n-th driver call."""
    site.sim.hold("*", skip=n - 1)
    child = start.start(act, label)
    site.sim.wait_until_held()
    child.kill()
    site.sim.clear()


@pytest.mark.parametrize("n", range(1, len(MAKING) + 1))
@pytest.mark.parametrize("halfway", [False, True], ids=["before", "half-made"])
def test_killed_while_making(web: Site, start: Processes, n: int, halfway: bool) -> None:
    if halfway:
        # Made halfway, it is being taken back when the process is killed.
        web.sim.fail_next("ensure_snapshot", halfway=True)
    _kill(web, start, n, make, "first")
    with pytest.raises(Conflict, match="is busy: snapshot"):
        run.snapshot("web", "second")
    assert [(f.what, f.action) for f in run.reconcile()] == [
        ("interrupted operation", "snapshot first removed")
    ]
    assert snapshots(web) == {}
    web.assert_agrees()
    assert guest(web) == ("a", "A")
    assert run.reconcile() == []


@pytest.mark.parametrize("n", range(1, len(REVERTING) + 1))
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_killed_while_reverting(web: Site, start: Processes, n: int, kind: str) -> None:
    run.snapshot("web", "first", kind)
    run.snapshot("web", "second", kind)
    write(web, disk="b", memory="B")
    _kill(web, start, n, revert, "first")
    assert [f.action for f in run.reconcile()] == ["taken back to snapshot first"]
    assert guest(web) == ("a", "A" if kind == "memory" else "")
    assert snapshots(web)["first"][2]
    web.assert_agrees()
    assert run.reconcile() == []


def test_killed_while_deleting(web: Site, start: Processes) -> None:
    run.snapshot("web", "first")
    _kill(web, start, 1, delete, "first")
    assert [f.action for f in run.reconcile()] == ["snapshot first removed"]
    assert snapshots(web) == {}
    web.assert_agrees()


@pytest.mark.parametrize("act", ACTS)
def test_killed_before_the_claim_and_before_the_record(web: Site, start: Processes, act: str) -> None:
    from tests.flows.processes import die_at_commit

    run.snapshot("web", "first")
    write(web, disk="b", memory="B")
    label = "second" if act == "make" else "first"
    for n, committed in ((1, False), (2, True)):
        child = start.start(die_at_commit, n, ACTS[act], label, operation_lease_s=60)
        child.process.join(60)
        assert child.process.exitcode is not None
        assert child.process.exitcode < 0
        assert bool(web.open_operations()) is committed
        run.reconcile()
        web.assert_agrees()
    left = [] if act == "delete" else ["first"]
    assert list(snapshots(web)) == left, "what was not recorded as made is not there"
    assert guest(web) == (("a", "A") if act == "revert" else ("b", "B"))
