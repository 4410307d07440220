"""The scale test on simulated hosts: what it measures is whole, and nothing of it stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.flows import run
from tests.flows.site import Site
from vdc.inventory import read_session
from vdc.schema import Operation

pytestmark = pytest.mark.prefect

PROVISION = ["ensure network", "ensure disk", "ensure seed", "define", "start"]
TEARDOWN = ["remove domain", "remove ports", "remove files"]


def _read(directory: Path) -> Any:
    from reports import scale_files

    return scale_files.read(directory)


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
