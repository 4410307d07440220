"""Reading commands answer at once: what is slow to import is imported only where it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
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


@pytest.mark.parametrize("arguments", [("--help",), ("status",), ("status", "--json"), ("up", "--help")])
def test_no_slow_import(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert not _modules(tmp_path, *arguments) & SLOW


def test_help_needs_no_database_library(tmp_path: Path) -> None:
    assert "sqlalchemy" not in _modules(tmp_path, "--help")


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


def test_status_answers_in_half_a_second(tmp_path: Path) -> None:
    # What else runs on the machine is not ours to measure: one quiet moment is enough.
    deadline, seen = time.monotonic() + 60, []
    while min(seen, default=99.0) >= 0.5:
        assert time.monotonic() < deadline, f"best of {len(seen)}: {min(seen):.2f} s"
        begun = time.monotonic()
        _modules(tmp_path, "status", "--json")
        seen.append(time.monotonic() - begun)
