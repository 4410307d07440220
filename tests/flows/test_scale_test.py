"""The scale test on simulated hosts: what it measures is whole, and nothing of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import Site
from vdc.errors import Conflict, Invalid, NoCapacity, NotFound, OperationFailed
from vdc.inventory import read_session
from vdc.schema import Operation
from vdc.states import VmState

PROVISION = ["ensure network", "ensure disk", "ensure seed", "define", "start"]
TEARDOWN = ["remove domain", "remove ports", "remove files"]


def _read(directory: Path) -> Any:
    from reports import scale_files

    return scale_files.read(directory)


@pytest.mark.prefect
def test_every_machine_and_phase_is_in_the_frames(site: Site, tmp_path: Path) -> None:
    before = site.snapshot()
    site.sim.set_latency("ensure_started", 0.05)
    operation_id = run.scale_test(count=5, repetitions=2, out=str(tmp_path / "out"))
    assert site.snapshot() == before
    site.assert_agrees()
    frames, about = _read(tmp_path / "out")
    counted = frames.phases[frames.phases["repetition"] > 0]
    for action, steps in (("deploy", PROVISION), ("terminate", TEARDOWN)):
        own = counted[counted["action"] == action]
        for phase in [*steps, "claim", "queue", "wait for record", "record"]:
            rows = own[own["phase"] == phase]
            assert len(rows) == 2 * 5, (action, phase)
            assert rows.groupby("repetition")["vm_id"].nunique().tolist() == [5, 5]
    rounds = frames.rounds.set_index(["repetition", "action"])
    for key, machine in counted.groupby(["repetition", "action", "vm_id"]):
        wall = rounds.loc[key[:2]]
        assert machine["begun"].min() >= wall["begun"]
        assert machine["ended"].max() <= wall["ended"]
        assert machine["duration_s"].sum() == pytest.approx(machine["ended"].max() - machine["begun"].min())
    assert counted[counted["phase"] == "start"]["duration_s"].min() >= 0.05
    assert set(frames.samples["kind"]) == {"process", "server", "database", "machine", "host"}
    assert set(frames.samples[frames.samples["kind"] == "host"]["name"]) == {"h1", "h2"}
    assert set(frames.rounds["side"]) == {"ours"}
    assert "simulated" in about["no_floor"]
    assert "There is no floor" in (tmp_path / "out" / "report.html").read_text()
    with read_session(site.url) as session:
        operation = session.get_one(Operation, operation_id)
        assert operation.outcome == "done"
        assert operation.result is not None
        assert operation.result["directory"] == str(tmp_path / "out")


def test_a_machine_that_fails_is_said_and_taken_back(site: Site, tmp_path: Path) -> None:
    before = site.snapshot()
    # The first start is the warm-up on h1, the second the first repetition's.
    site.sim.set_latency("ensure_started", 0.01)
    site.sim.fail_next("ensure_started", host="h1", times=2)
    said = r"1 of 2 machines failed\. Step 'start' of scale-\w+-warm-\d on host h1 .* So did 1 other round\."
    with pytest.raises(OperationFailed, match=said):
        run.scale_test(count=3, repetitions=2, out=str(tmp_path / "out"))
    assert site.sim.pending_faults() == 0
    assert site.snapshot() == before
    site.assert_agrees()
    assert list(site.machines().values()).count(VmState.FAILED) == 2
    frames, _ = _read(tmp_path / "out")
    first = frames.rounds[(frames.rounds["repetition"] == 1) & (frames.rounds["action"] == "deploy")]
    assert first["failed"].tolist() == [1]
    bad = frames.phases[frames.phases["error"] != ""]
    assert "start" in set(bad["phase"])
    text = (tmp_path / "out" / "report.html").read_text()
    assert "Repetition 1, ours: 1 of 3 machines failed to deploy; it counts in no figure." in text


@pytest.mark.parametrize(
    ("call", "state"),
    [("ensure_started", VmState.FAILED), ("hypervisor.ensure_removed", VmState.GONE)],
    ids=["making", "removing"],
)
def test_killed_in_the_middle_reconcile_leaves_nothing(
    site: Site, start: Processes, tmp_path: Path, call: str, state: VmState
) -> None:
    before = site.snapshot()
    site.sim.hold(call, skip=4)
    request = {"count": 3, "repetitions": 2, "out": str(tmp_path / "out")}
    child = start.start(run.scale_test_request, request)
    site.sim.wait_until_held()
    child.kill()
    site.sim.release(call)
    assert any(o.startswith("scale-test") for o in site.open_operations())
    run.reconcile()
    assert site.snapshot() == before
    site.assert_agrees()
    assert state in site.machines().values()
    assert run.reconcile() == []
    if state == VmState.FAILED:
        run.scale_test(count=1, repetitions=1, out=str(tmp_path / "again"))


def test_killed_between_making_and_removing_reconcile_removes(
    site: Site, start: Processes, tmp_path: Path
) -> None:
    """Machines that run and on which no operation is open: only the test's own operation tells of them."""
    before = site.snapshot()
    child = start.start(_die_when_made, {"count": 3, "repetitions": 1, "out": str(tmp_path / "out")})
    child.process.join(60)
    assert child.process.exitcode == -9
    assert list(site.machines().values()).count(VmState.PAUSED) == 3
    found = run.reconcile()
    assert [(f.what, f.action) for f in found] == [("left by a scale test", "removed")] * 3
    assert site.snapshot() == before
    site.assert_agrees()
    assert run.reconcile() == []


def _die_when_made(request: dict[str, Any]) -> None:
    import os
    import signal

    import flows.scale_test

    terminate = flows.scale_test.terminate

    def die(request: Any) -> str:
        if "warm" not in _name(request.vms[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        return terminate(request)

    flows.scale_test.terminate = die  # type: ignore[assignment]
    run.scale_test(**request)


def _name(vm_id: str) -> str:
    from tasks.environment import environment
    from vdc.schema import Vm

    with read_session(environment().url) as session:
        return session.get_one(Vm, vm_id).name


@pytest.mark.parametrize(
    "point", [pytest.param("ensure_started", marks=pytest.mark.prefect), "hypervisor.ensure_removed"]
)
def test_interrupted_it_removes_what_there_is(
    site: Site, start: Processes, tmp_path: Path, point: str
) -> None:
    """Ctrl-C: the process itself cleans up, before it ends."""
    before = site.snapshot()
    site.sim.hold(point, skip=4)
    child = start.start(_interruptible, {"count": 3, "repetitions": 2, "out": str(tmp_path / "out")})
    site.sim.wait_until_held()
    child.interrupt()
    site.sim.release(point)
    assert child.answer().error == "KeyboardInterrupt"
    assert site.snapshot() == before
    site.assert_agrees()
    assert any("ended before its time" in (e or "") for e in site.errors().values())
    assert run.reconcile() == []


def _interruptible(request: dict[str, Any]) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)
    run.scale_test(**request)


def test_a_host_that_goes_away_fails_the_test_and_is_cleaned_later(site: Site, tmp_path: Path) -> None:
    before = site.snapshot()
    site.sim.fail_next("hypervisor.ensure_removed", host="h2", times=50)
    with pytest.raises(OperationFailed):
        run.scale_test(count=2, repetitions=1, out=str(tmp_path / "out"))
    assert site.open_operations() == []
    assert VmState.TERMINATING in site.machines().values()
    site.sim.clear()
    run.reconcile()
    assert site.snapshot() == before
    site.assert_agrees()


def test_what_cannot_be_is_refused_before_anything_is_touched(site: Site, tmp_path: Path) -> None:
    rows, calls = site.rows(), site.sim.call_count()
    file = tmp_path / "file"
    file.touch()
    for request, error in (
        ({"count": 0}, Invalid),
        ({"repetitions": 0}, Invalid),
        ({"count": 5000}, NoCapacity),
        ({"template": "nosuch"}, NotFound),
        ({"tenant": "nosuch"}, NotFound),
        ({"out": str(file / "out")}, Invalid),
    ):
        with pytest.raises(error):
            run.scale_test(**request)
    assert site.rows() == rows
    assert site.sim.call_count() == calls


def test_one_at_a_time_and_no_stranger_joins(site: Site, start: Processes, tmp_path: Path) -> None:
    site.sim.hold("ensure_started")
    child = start.start(run.scale_test_request, {"count": 1, "repetitions": 1, "out": str(tmp_path / "out")})
    site.sim.wait_until_held()
    with pytest.raises(Conflict, match=r"scale-test/scale-\w+ is busy"):
        run.scale_test(count=1)
    with read_session(site.url) as session:
        test = session.query(Operation.id).filter_by(kind="scale-test").one().id
    for name in ("nosuch", test):
        with pytest.raises(Invalid, match=f"Scale test '{name}' does not run here"):
            run.deploy(scale_test=name)
    site.sim.release("ensure_started")
    assert not child.answer().error
    site.assert_agrees()


@pytest.mark.usefixtures("engine")
def test_each_step_of_a_machine_is_a_phase_of_the_report() -> None:
    from reports.scale_test import DRIVERS
    from tasks.machines import PROVISION, TEARDOWN

    assert (*PROVISION, *TEARDOWN) == DRIVERS
