"""Reading commands answer at once: what is slow to import is imported only where it is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SLOW = {"prefect", "libvirt", "pandas", "paramiko", "boto3", "matplotlib", "pyarrow", "lxml", "rich"}

PROGRAM = """
import json, sys
from interfaces.cli.main import main
try:
    main(sys.argv[1:])
finally:
    sys.stdout.flush()
    json.dump(sorted(name for name in sys.modules if "." not in name), sys.stderr)
"""


def _modules(tmp_path: Path, *arguments: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={"PATH": "/usr/bin:/bin", "VDC_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr[done.stderr.rindex("[") :]))


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("up", "--help")])
def test_no_slow_import(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert not _modules(tmp_path, *arguments) & SLOW


def test_help_needs_no_database_library_either(tmp_path: Path) -> None:
    assert not _modules(tmp_path, "--help") & {*SLOW, "sqlalchemy"}


def test_help_names_what_there_is(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "interfaces.cli.main", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for name in ("up", "down", "status", "lab"):
        assert f"\n  {name} " in done.stdout


def _cpu_s(*command: str) -> float:
    before = os.times()
    subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, timeout=60, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_status_costs_little_more_than_its_database_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a second on a quiet machine. On a busy one CPU costs more too: hence the yardstick beside it."""
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    pairs = [
        (_cpu_s("-c", "import sqlalchemy.orm"), _cpu_s("-m", "interfaces.cli.main", "status", "--json"))
        for _ in range(3)
    ]
    yardstick, ours = (min(column) for column in zip(*pairs, strict=True))
    assert ours < 2 * yardstick
