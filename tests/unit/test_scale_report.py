"""The report of a scale test, from rounds that were made up: figures by hand, words, the page."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from lxml import etree, html

from reports import scale_files
from reports.scale_page import page
from reports.scale_test import Frames, frames, median_of, percentiles, ratios, shares, summary, words
from vdc.errors import Invalid, NotFound

OURS = (
    ("ensure network", 0.0),
    ("ensure disk", 0.1),
    ("ensure seed", 0.1),
    ("define", 0.1),
    ("start", 0.5),
)
BACK = (("remove domain", 0.3), ("remove ports", 0.05), ("remove files", 0.05))
BARE = (("ensure disk", 0.1), ("ensure seed", 0.1), ("define", 0.1), ("start", 0.5))
BARE_BACK = (("remove domain", 0.3), ("remove files", 0.05))


def step(key: tuple[int, str, str], vm: int | None, phase: str, begun: float, ended: float) -> dict[str, Any]:
    repetition, side, action = key
    return {
        "repetition": repetition,
        "side": side,
        "action": action,
        "vm_id": "" if vm is None else f"id-{vm}",
        "machine": "" if vm is None else f"m-{vm}",
        "host": "" if vm is None else "h1",
        "phase": phase,
        "begun": begun,
        "ended": ended,
        "error": "",
    }


def measured(repetitions: int = 3, *, floor: bool = True, failed: int = 0, load: float = 0.5) -> Frames:
    """Four machines, all at once. Ours takes 1.15 + 0.65 s, the floor 1.0 + 0.5 s: a ratio of 1.2.

    In ours the claim takes 0.1 s and the record 0.05 s; machine n waits n x 10 ms in the queue.
    """
    rounds, steps, at = [], [], 1000.0
    for repetition in range(repetitions + 1):
        for side, walls in (("ours", (1.15, 0.65)), ("floor", (1.0, 0.5))):
            if side == "floor" and (not floor or repetition == 0):
                continue
            for action, wall_s in zip(("deploy", "terminate"), walls, strict=True):
                key = (repetition, side, action)
                bad = failed if (repetition, side, action) == (1, "ours", "deploy") else 0
                rounds.append(
                    {
                        "repetition": repetition,
                        "side": side,
                        "action": action,
                        "begun": at,
                        "ended": at + wall_s,
                        "machines": 4,
                        "failed": bad,
                        "client_cpu_s": 0.04,
                        "server_cpu_s": 0.02 if side == "ours" else None,
                        "quiet": True,
                        "error": "Step 'start' of m-1 on host h1 failed: no <b>power</b>" if bad else "",
                    }
                )
                ours = side == "ours"
                if ours:
                    steps.append(step(key, None, "claim", at, at + 0.1))
                kinds = {("ours", "deploy"): OURS, ("ours", "terminate"): BACK, ("floor", "deploy"): BARE}
                for vm in range(4):
                    t = at + (0.1 if ours else 0.0) + 0.01 * vm
                    for phase, took_s in kinds.get((side, action), BARE_BACK):
                        steps.append(step(key, vm, phase, t, t + took_s))
                        t += took_s
                    if ours:
                        steps.append(step(key, vm, "record", at + wall_s - 0.05, at + wall_s))
                at += wall_s + 1
    samples = [
        {
            "at": 999.0 + n,
            "kind": "host",
            "name": "h1",
            "cpu_busy_s": 2 * load * n,
            "cpu_total_s": 2.0 * n,
            "memory_mib": 900.0,
            "load_1m": 1.0,
            "machines": 4,
            "size_mib": None,
            "error": "",
        }
        for n in range(60)
    ]
    return frames(rounds, steps, samples)


ABOUT = {
    "name": "scale-1a2b3c4d",
    "operation_id": "1a2b3c4d",
    "at": "2026-11-24T12:00:00+00:00",
    "request": {"template": "t<i>ny", "count": 4, "repetitions": 3, "start": "paused", "tenant": "default"},
    "shape": {"vcpu": 1, "memory_mib": 48, "disk_mib": 64, "nics": 1},
    "hosts": [
        {"hostname": "h1", "vcpu": 2, "memory_mib": 4096, "hypervisor_version": "QEMU 7.2", "cpu_model": ""}
    ],
    "per_host_concurrency": 4,
    "no_floor": "",
    "cpus": 2,
}
NO_FLOOR = {"no_floor": "host h1 is simulated: there is nothing beneath it to measure"}


@cache
def page_of(**made: Any) -> str:
    """The page of `measured(**made)`: to draw one takes seconds, and several tests read it."""
    return page(measured(**made), ABOUT | ({} if made.get("floor", True) else NO_FLOOR))


def test_phases_follow_each_other_without_a_gap() -> None:
    phases = measured().phases
    own = phases[(phases["repetition"] == 1) & (phases["side"] == "ours") & (phases["vm_id"] == "id-3")]
    made = own[own["action"] == "deploy"]
    assert made["phase"].tolist() == ["claim", "queue", *(p for p, _ in OURS), "wait for record", "record"]
    assert made["duration_s"].sum() == pytest.approx(1.15)
    took = dict(zip(made["phase"], made["duration_s"], strict=True))
    assert took["queue"] == pytest.approx(0.03)
    assert took["wait for record"] == pytest.approx(1.1 - 0.93)
    assert made["begun"].iloc[1:].to_numpy() == pytest.approx(made["ended"].iloc[:-1].to_numpy())


def test_a_step_that_was_tried_again_is_two_rows_and_one_latency() -> None:
    key = (1, "ours", "deploy")
    steps = [
        step(key, None, "claim", 10.0, 10.1),
        step(key, 1, "start", 10.1, 10.3) | {"error": "busy"},
        step(key, 1, "start", 10.8, 11.0),
        step(key, 1, "record", 11.0, 11.1),
    ]
    row = {"repetition": 1, "side": "ours", "action": "deploy", "begun": 9.9, "ended": 11.2, "machines": 1,
           "failed": 0, "client_cpu_s": 0.0, "server_cpu_s": None, "quiet": True, "error": ""}  # fmt: skip
    made = frames([row], steps, [])
    assert made.phases[["phase", "attempt"]].to_numpy().tolist() == [
        ["open flow run", 1],
        ["claim", 1],
        ["start", 1],
        ["between steps", 1],
        ["start", 2],
        ["record", 1],
    ]
    table = percentiles(made).set_index("phase")
    assert table.loc["start", "p50"] == pytest.approx(0.4)
    assert table.loc["whole", "p99"] == pytest.approx(1.2)


def test_percentiles_are_those_of_all_counted_machines() -> None:
    table = percentiles(measured()).set_index(["side", "action", "phase"])
    queue = table.loc[("ours", "deploy", "queue")]
    # Three repetitions of 10, 20 and 30 ms; the first machine does not wait at all.
    assert (queue["n"], queue["p50"]) == (9, pytest.approx(0.02))
    assert queue["p90"] == pytest.approx(0.03)
    assert table.loc[("ours", "deploy", "start"), "n"] == 12, "the warm-up is not counted"
    assert table.loc[("floor", "deploy", "whole"), "p50"] == pytest.approx(0.815, abs=1e-6)


def test_ratio_to_the_floor() -> None:
    made = measured()
    assert ratios(made)["both"].tolist() == pytest.approx([1.2, 1.2, 1.2])
    table = summary(made)
    assert median_of(table, "deploy", "ours / floor", "ratio") == pytest.approx(1.15)
    assert median_of(table, "deploy", "ours", "machines/s") == pytest.approx(4 / 1.15)
    assert median_of(table, "CPU of this process", "ours", "ms a machine") == pytest.approx(20.0)
    assert median_of(table, "CPU of the Prefect server", "ours", "ms a machine") == pytest.approx(10.0)
    assert median_of(table, "CPU of the Prefect server", "floor", "ms a machine") is None


def test_shares_of_the_places_time() -> None:
    share = shares(measured(), "deploy", 4)
    assert share["start"] == pytest.approx(0.5 / 1.15)
    assert sum(share.values()) == pytest.approx(0.8 / 1.15)


def test_words_say_what_bounds_it() -> None:
    said = " ".join(words(measured(), ABOUT))
    assert (
        "4 machines were made in 1.15 s and removed in 0.65 s (medians): 3.5 and 6.2 machines a second"
        in said
    )
    assert (
        "1.20 times as long (above the target of 1.15): 17% of our wall time is what the datacenter" in said
    )
    assert "the longest step is 'start' with 43%" in said
    assert "Neither hosts nor their places were used up: 30% is waiting on us" in said
    assert "The hosts' CPUs bound it: 95% in use" in " ".join(words(measured(load=0.95), ABOUT))


def test_a_failure_is_said_and_counts_in_no_figure() -> None:
    made = measured(failed=1)
    said = " ".join(words(made, ABOUT))
    assert "Repetition 1, ours: 1 of 4 machines failed to deploy; it counts in no figure. Step" in said
    assert ratios(made).index.tolist() == [2, 3]
    table = percentiles(made).set_index(["side", "action", "phase"])
    assert table.loc[("ours", "deploy", "start"), "n"] == 8
    assert table.loc[("floor", "deploy", "start"), "n"] == 12
    text = page_of(failed=1)
    assert "no &lt;b&gt;power&lt;/b&gt;" in text
    assert "<b>power" not in text


def test_without_a_floor_none_is_made_up() -> None:
    made = measured(floor=False)
    assert set(summary(made)["side"]) == {"ours"}
    said = " ".join(words(made, ABOUT | NO_FLOOR))
    assert "There is no floor to compare with: host h1 is simulated" in said
    text = page_of(floor=False)
    assert "Ours against the floor" not in text
    assert "no floor" in text


@pytest.mark.parametrize(
    "about", [{}, {"floor": False}, {"failed": 1}, {"repetitions": 1, "failed": 4, "floor": False}]
)
def test_the_page_is_whole_and_fetches_nothing(about: dict[str, Any]) -> None:
    text = page_of(**about)
    assert "http" not in text.lower().replace("http-equiv", "")
    for reference in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)|url\(([^)]*)\)""", text):
        assert "".join(reference).startswith("#"), reference
    assert "t&lt;i&gt;ny" in text
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for used in re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text):
        assert "".join(used) in ids
    for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        etree.fromstring(svg)
    opened = [e.tag for e in html.fromstring(text).iter() if isinstance(e.tag, str)]
    assert opened.count("table") == 3
    for tag in ("div", "table", "tr", "td", "section", "figure", "svg", "g"):
        assert len(re.findall(rf"<{tag}[ >]", text)) == text.count(f"</{tag}>") + len(
            re.findall(rf"<{tag}(?: [^>]*)?/>", text)
        ), tag


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    made = measured()
    told = scale_files.write(made, ABOUT, tmp_path / "out")
    assert {f.name for f in (tmp_path / "out").iterdir()} == {
        "about.json", "phases.parquet", "report.html", "rounds.parquet", "samples.parquet", "summary.parquet"
    }  # fmt: skip
    again, about = scale_files.read(tmp_path / "out")
    assert about == ABOUT
    figures, said = summary(again).to_dict("records"), words(again, about)
    assert told == {"directory": str(tmp_path / "out"), "figures": figures, "words": said}


def test_what_is_no_scale_test_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no about\.json"):
        scale_files.read(tmp_path)
    (tmp_path / "about.json").write_text("{}")
    (tmp_path / "phases.parquet").write_text("torn")
    with pytest.raises(Invalid, match="cannot be read"):
        scale_files.read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(Invalid, match="cannot be written"):
        scale_files.write(measured(), ABOUT, tmp_path / "file")
