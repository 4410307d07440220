"""Burn-in on simulated hosts: a sound platform passes, and what is broken behind its back is told."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import Site
from vdc.burnin import TABLE, entries_of
from vdc.errors import Conflict, Invalid, NoCapacity, NotFound
from vdc.inventory import read_session
from vdc.requests import BurninRequest
from vdc.schema import Image, Operation, Vm
from vdc.states import HOLDING


def _request(**more: Any) -> BurninRequest:
    asked = {"template": "tiny", "operations": 60, "users": 3, "seed": 7, "max_machines": 6}
    return BurninRequest(**(asked | more))


def _burnin(directory: Path, **more: Any) -> Any:
    from deployments.burnin import course

    return course.run(_request(**more), directory, lambda _text: None)


def _broken(
    directory: Path, monkeypatch: pytest.MonkeyPatch, hurt: Callable[[], None]
) -> dict[str, list[str]]:
    """What is wrong, by check, after `hurt` was done between the users' last operation and the first look."""
    from deployments.burnin import course

    act = course.draw_and_act

    def act_and_hurt(*args: Any) -> None:
        act(*args)
        hurt()

    monkeypatch.setattr(course, "draw_and_act", act_and_hurt)
    with pytest.raises(course.Unsound) as failed:
        _burnin(directory, operations=20)
    return {check.name: list(check.problems) for check in failed.value.report.checks if check.problems}


def _machine(site: Site, state: str) -> tuple[str, Any]:
    with read_session(site.url) as session:
        name = session.query(Vm.name).filter(Vm.state == state).order_by(Vm.name).first()
    assert name, f"no machine is {state}: choose another seed"
    return name[0], site.spec(name[0])


@pytest.mark.prefect
def test_sixty_operations_by_three_users(site: Site, tmp_path: Path) -> None:
    before = site.snapshot()
    report = _burnin(tmp_path / "out")
    assert report.failed == []
    assert len(report.checks) == 10
    assert sum(row["asked"] for row in report.operations) == 60
    assert sum(row["failed"] for row in report.operations) == 0
    assert {row["refused"] + row["conflict"] for row in report.operations if row["must_be_refused"]} != {0}
    assert report.left == []
    assert site.snapshot() == before
    site.assert_agrees()
    first, *lines = (tmp_path / "out" / "log.jsonl").read_text().splitlines()
    assert json.loads(first)["request"]["seed"] == 7
    entries = entries_of(lines)
    assert [entry.number for entry in entries] == list(range(1, 61))
    assert {entry.user for entry in entries} == {1, 2, 3}
    assert len(lines) == 120, "each begins and ends"
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert {check["result"] for check in told["checks"]} == {"PASS"}


def test_every_operation_of_the_table_can_be_asked_for(site: Site) -> None:
    from deployments.burnin.acting import ACTS

    assert {row.operation for row in TABLE} == set(ACTS)


@pytest.mark.parametrize("alone", [True, False])
def test_a_log_is_asked_for_again(site: Site, tmp_path: Path, alone: bool) -> None:
    from deployments.burnin import course

    before = site.snapshot()
    _burnin(tmp_path / "first", operations=16)
    log = tmp_path / "first" / "log.jsonl"
    report = course.replay(log, tmp_path / "again", lambda _text: None, alone=alone)
    assert report.failed == []
    first, again = (
        (tmp_path / name / "log.jsonl").read_text().splitlines()[1:] for name in ("first", "again")
    )
    asked = [[(e.number, e.user, e.drawn) for e in entries_of(lines)] for lines in (first, again)]
    assert asked[0] == asked[1]
    if alone:
        entries = entries_of(again)
        for one, following in itertools.pairwise(entries):
            assert one.ended_s <= following.begun_s
        assert not any(e.outcome == "conflict" for e in entries)
    assert site.snapshot() == before


def test_one_user_draws_the_same_again(site: Site, tmp_path: Path) -> None:
    """Nobody else changes what he sees, so that the seed alone decides."""
    asked = []
    for name in ("first", "again"):
        _burnin(tmp_path / name, operations=15, users=1, seed=11)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()[1:]
        entries = entries_of(lines)
        assert all(bool(e.case) == (e.outcome == "refused") for e in entries), "alone, each ends as it must"
        asked.append([entry.drawn for entry in entries])
    assert asked[0] == asked[1]


def test_a_domain_removed_behind_its_back(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from drivers import registry
    from tasks.environment import environment

    hurt = []

    def remove() -> None:
        name, spec = _machine(site, "running")
        registry.hypervisor(spec.host, environment().access).ensure_removed(spec.domain)
        hurt.append(name)

    problems = _broken(tmp_path / "out", monkeypatch, remove)
    assert (
        f"vm/{hurt[0]} has no domain, or one that crashed (as the users left it)"
        in (problems["hosts are as the inventory says"])
    )
    assert site.machines()[hurt[0]].value == "gone", "removed all the same"


def test_a_golden_image_that_is_not_what_it_was(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with read_session(site.url) as session:
        file = str(session.query(Image.file).scalar())
    problems = _broken(
        tmp_path / "out", monkeypatch, lambda: site.sim.damage("shared", file, "a guest wrote")
    )
    assert list(problems) == ["golden images"]
    assert file in problems["golden images"][0]


def test_a_snapshot_that_nobody_knows(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from drivers import registry
    from tasks.environment import environment
    from tasks.machines import domain_spec
    from vdc.model import SnapshotSpec

    def keep() -> None:
        _, spec = _machine(site, "running")
        hypervisor = registry.hypervisor(spec.host, environment().access)
        hypervisor.ensure_snapshot(domain_spec(spec), SnapshotSpec("stray", "disk"), timeout_s=5)

    problems = _broken(tmp_path / "out", monkeypatch, keep)
    assert list(problems) == ["snapshots"]
    assert "snapshot stray is not in the inventory" in problems["snapshots"][0]


def test_what_fails_is_told_with_its_number_and_its_error(site: Site, tmp_path: Path) -> None:
    from deployments.burnin import course

    site.sim.fail_next("ensure_started")
    with pytest.raises(course.Unsound, match="Not sound: operations end as they must") as failed:
        _burnin(tmp_path / "out")
    assert site.sim.pending_faults() == 0
    problems = failed.value.report.checks[0].problems
    assert len(problems) == 1, problems
    (problem,) = problems
    assert "failed: OperationFailed: " in problem
    assert "simulated fault before hypervisor.ensure_started" in problem
    site.assert_agrees()


def test_the_command_ends_with_1_and_says_which_disk_is_broken(site: Site, tmp_path: Path) -> None:
    """Typed in a process of its own; the disk is broken while the burn-in begins to look at it."""
    site.sim.hold("datastore.check_disk")
    command = [sys.executable, "-m", "interfaces.cli.main", "burnin", "run", "--template", "tiny", "--json"]
    command += ["--operations", "25", "--users", "2", "--seed", "7", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy()
    ) as typed:
        try:
            held = site.sim.wait_until_held(100)[0]
            site.sim.damage("shared", held.subject, "1 errors were found on the image.")
            site.sim.release("datastore.check_disk")
            out, err = typed.communicate(timeout=100)
        finally:
            typed.kill()
    assert typed.returncode == 1, err
    told = json.loads(out)["error"]
    broken = {check["check"]: check["problems"] for check in told["checks"] if check["problems"]}
    assert list(broken) == ["disks"]
    assert f"{held.subject}: 1 errors were found on the image." in broken["disks"][0]
    assert "Traceback" not in err
    assert "25/25 user" in err
    site.assert_agrees()
    assert not any(state in HOLDING for state in site.machines().values())


def test_what_cannot_be_is_refused_before_anything_is_touched(site: Site, tmp_path: Path) -> None:
    from deployments.burnin import course

    rows = site.rows()
    for request, error in (
        ({"operations": 0}, Invalid),
        ({"users": 0}, Invalid),
        ({"users": 17}, Invalid),
        ({"seed": -1}, Invalid),
        ({"max_machines": 0}, Invalid),
        ({"max_machines": 5000}, NoCapacity),
        ({"template": "nosuch"}, NotFound),
        ({"tenant": "nosuch"}, NotFound),
    ):
        with pytest.raises(error):
            _burnin(tmp_path / "out", **request)
    no_log = tmp_path / "no.jsonl"
    no_log.write_text("Dear diary\n")
    for log in (no_log, tmp_path / "nosuch.jsonl"):
        with pytest.raises(Invalid, match=log.name):
            course.replay(log, tmp_path / "out", lambda _text: None, alone=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(Invalid, match="A log cannot be begun in"):
        _burnin(no_log)
    assert site.rows() == rows


def test_machines_of_the_same_seed_are_not_taken_for_its_own(site: Site, tmp_path: Path) -> None:
    from deployments.burnin import course

    run.deploy(name="burnin-7-1")
    with pytest.raises(Conflict, match="`vdc burnin remove --seed 7` removes them"):
        _burnin(tmp_path / "out")
    assert course.remove(_request(), lambda _text: None) == []
    site.assert_agrees()
    assert site.machines()["burnin-7-1"].value == "gone"


def _interruptible(directory: str) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.default_int_handler)
    _burnin(Path(directory))


def test_interrupted_it_removes_its_machines(site: Site, start: Processes, tmp_path: Path) -> None:
    before = site.snapshot()
    site.sim.hold("hypervisor.ensure_removed")
    child = start.start(_interruptible, str(tmp_path / "out"))
    site.sim.wait_until_held(60)
    child.interrupt()
    site.sim.release("hypervisor.ensure_removed")
    assert child.answer().error == "KeyboardInterrupt"
    assert site.snapshot() == before
    site.assert_agrees()
    assert run.reconcile() == []


def test_killed_reconcile_finishes_and_its_machines_can_be_removed(
    site: Site, start: Processes, tmp_path: Path
) -> None:
    from deployments.burnin import course

    before = site.snapshot()
    site.sim.hold("hypervisor.ensure_removed")
    child = start.start(_interruptible, str(tmp_path / "out"))
    site.sim.wait_until_held(60)
    child.kill()
    site.sim.release("hypervisor.ensure_removed")
    run.reconcile()
    site.assert_agrees()
    with read_session(site.url) as session:
        assert session.query(Operation.outcome).filter(Operation.kind == "burnin").scalar() == "failed"
    assert course.remove(_request(), lambda _text: None) == []
    assert site.snapshot() == before
    assert entries_of((tmp_path / "out" / "log.jsonl").read_text().splitlines()[1:])
