"""`kill -9` of a process at points that are met exactly, then `reconcile`: hosts and inventory agree.

A process is held before its n-th driver call (drivers/simulated) and killed there, or it kills itself before
its n-th commit to the inventory.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.flows import run
from tests.flows.processes import Child, Processes, die_at_commit
from tests.flows.site import Site
from tests.requires import missing
from vdc.errors import OperationFailed
from vdc.reconciliation import DIED
from vdc.schema import Image
from vdc.states import VmState

CALLS = 6
"""Driver calls that make a machine with two cards."""
REMOVING = 3
_points = random.Random(20261122)
DEPLOY_POINTS = [[_points.randint(1, 3 * CALLS) for _ in range(5)] for _ in range(4)]
TERMINATE_POINTS = sorted(_points.sample(range(1, 3 * REMOVING + 1), 5))


def _kill_before_call(site: Site, n: int, start: Processes, *task: Any) -> Child:
    site.sim.hold("*", skip=n - 1)
    child = start.start(*task)
    assert {held.pid for held in site.sim.wait_until_held()} == {child.pid}
    child.kill()
    site.sim.release("*")
    return child


@pytest.mark.parametrize(
    "points",
    [pytest.param(DEPLOY_POINTS[0], marks=pytest.mark.prefect), *DEPLOY_POINTS[1:]],
    ids=lambda points: "-".join(map(str, points)),
)
def test_killed_while_deploying(site: Site, start: Processes, points: list[int]) -> None:
    for k, n in enumerate(points):
        request = {"count": 3, "name": f"k{k}", "start": ("running", "paused", "stopped")[k % 3]}
        # A machine that is not started has one call less.
        _kill_before_call(site, min(n, 15), start, run.deploy_request, request)
    assert len(site.open_operations()) == len(points) * 4
    findings = run.reconcile()
    assert {f.action for f in findings} == {"deployment taken forward"}
    site.assert_agrees()
    assert len(site.machines()) == 3 * len(points)
    assert set(site.machines().values()) <= {VmState.RUNNING, VmState.PAUSED, VmState.STOPPED}
    assert run.reconcile() == []


def test_killed_while_terminating(site: Site, start: Processes) -> None:
    before = site.snapshot()
    run.deploy(count=3 * len(TERMINATE_POINTS), name="web")
    names = list(site.machines())
    for k, n in enumerate(TERMINATE_POINTS):
        _kill_before_call(site, n, start, run.terminate, *names[3 * k : 3 * k + 3])
    run.reconcile()
    site.assert_agrees()
    assert site.snapshot() == before
    for name in names:
        assert site.events(name) == ["created", "started", "terminated"]


def test_killed_before_each_commit(site: Site, start: Processes) -> None:
    """The claim, the heartbeats, the mark of a machine that fails, outcomes, the end of the batch."""
    committed = []
    for n in range(1, 6):
        site.sim.fail_next("ensure_started", host="h1")
        child = start.start(die_at_commit, n, run.deploy_request, {"count": 2, "name": f"k{n}"})
        child.process.join(60)
        assert not child.process.is_alive()
        if child.process.exitcode != -signal.SIGKILL:
            assert child.answer().error == "OperationFailed", "it had nothing left to commit"
        site.sim.clear()
        committed.append(sum(name.startswith(f"k{n}-") for name in site.machines()))
    assert committed[:2] == [0, 2], "before the claim's commit there is nothing, after it all"
    run.reconcile()
    site.assert_agrees()
    assert run.reconcile() == []


def test_three_deaths_on_the_way_forward_and_it_is_taken_back(site: Site, start: Processes) -> None:
    """What kills every process that works on it must not do so for ever."""
    before = site.snapshot()
    site.sim.hold("ensure_disk")
    for task in (run.deploy_request, {"name": "cursed"}), (run.reconcile,), (run.reconcile,):
        child = start.start(*task)
        while child.pid not in {held.pid for held in site.sim.held()}:
            site.sim.wait_until_held()
        child.kill()
    site.sim.release("ensure_disk")
    findings = run.reconcile()
    assert [(f.object, f.action) for f in findings] == [("vm/cursed", "deployment taken back")]
    assert site.machines() == {"cursed": VmState.FAILED}
    assert site.errors()["vm/cursed"] == DIED
    assert site.snapshot() == before
    site.assert_agrees()


def test_killed_while_taking_back(site: Site, start: Processes) -> None:
    """The way back is gone to its end: nobody makes a machine again whose files were being removed."""
    before = site.snapshot()
    site.sim.fail_next("ensure_started", after=True)
    site.sim.hold("datastore.ensure_removed")
    child = start.start(run.deploy_request, {"name": "web"})
    site.sim.wait_until_held()
    child.kill()
    site.sim.release("datastore.ensure_removed")
    calls = site.sim.call_count()
    assert "deployment taken back" in {f.action for f in run.reconcile()}
    assert not [c for c in site.sim.log(since=calls) if c.call == "hypervisor.ensure_started"]
    assert site.machines() == {"web": VmState.FAILED}
    assert "Step 'start' of web on host" in (site.errors()["vm/web"] or ""), "the first reason is kept"
    assert site.snapshot() == before


def test_killed_in_all_or_none(site: Site, start: Processes) -> None:
    before = site.snapshot()
    _kill_before_call(site, 9, start, run.deploy_request, {"count": 3, "name": "web", "atomic": True})
    run.reconcile()
    assert set(site.machines().values()) == {VmState.FAILED}
    assert site.snapshot() == before


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")
    file = tmp_path / "small.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(file), "8M"], check=True)
    return file


def _import(file: Path, name: str) -> str:
    return run.import_image(file=str(file), name=name, datastore="shared")


def test_killed_while_importing(site: Site, start: Processes, image_file: Path) -> None:
    before, images = site.snapshot(), site.count(Image)
    _kill_before_call(site, 1, start, _import, image_file, "first")
    child = start.start(die_at_commit, 2, _import, image_file, "second")  # stored, but not written down
    child.process.join(60)
    assert child.process.exitcode == -signal.SIGKILL
    assert site.snapshot()["hosts"] != before["hosts"]
    assert {f.action for f in run.reconcile()} == {"import taken back"}
    assert site.snapshot() == before
    assert site.count(Image) == images
    _import(image_file, "first")
    assert site.count(Image) == images + 1


def test_an_upload_that_fails_leaves_no_image(site: Site, image_file: Path) -> None:
    before, images = site.snapshot(), site.count(Image)
    site.sim.fail_next("ensure_image", halfway=True)
    with pytest.raises(OperationFailed, match=r"Image small was not stored on host h1: .*ensure_image"):
        _import(image_file, "small")
    assert site.snapshot() == before
    assert site.count(Image) == images
