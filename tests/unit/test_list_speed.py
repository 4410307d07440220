"""A list of 2,000 machines answers at once, whatever else of ours is slow to import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deployments.bench.reading import fill

pytestmark = pytest.mark.alone

MACHINES = 2000
SLOW = {"prefect", "sqlalchemy", "alembic", "pydantic", "libvirt", "paramiko", "lxml", "rich"}
PROGRAM = """
import json, sys
from interfaces.cli.main import main
try:
    main(sys.argv[1:])
finally:
    sys.stdout.flush()
    json.dump(sorted(name for name in sys.modules if "." not in name), sys.stderr)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    fill(f"sqlite:///{home / 'inventory.db'}", MACHINES)
    return home


def _vdc(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={"PATH": os.environ["PATH"], "VDC_HOME": str(home)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_it_imports_nothing_slow(home: Path) -> None:
    done = _vdc(home, "vm", "list")
    assert len(done.stdout.splitlines()) == 1 + MACHINES
    assert not set(json.loads(done.stderr[done.stderr.rindex("[") :])) & SLOW


def test_json_is_complete(home: Path) -> None:
    rows = json.loads(_vdc(home, "vm", "list", "--json").stdout)
    assert len(rows) == MACHINES
    first = next(row for row in rows if row["name"] == "m-1")
    assert first["addresses"] == [{"vnet": "blue", "address": "10.0.0.1", "mac": "02:00:0a:00:00:01"}]
    assert first["domain"] == f"vm-{first['id']}"
    assert [disk["datastore"] for disk in first["disks"]] == ["shared"]
    assert first["created_at"].endswith("+00:00")


def test_it_answers_in_half_a_second(home: Path) -> None:
    # What else runs on the machine is not ours to measure: one quiet moment is enough.
    deadline, best = time.monotonic() + 60, 99.0
    while best >= 0.5:
        assert time.monotonic() < deadline, f"the best was {best:.2f} s"
        begun = time.monotonic()
        _vdc(home, "vm", "list")
        best = min(best, time.monotonic() - begun)
