"""Somebody who has nothing of ours yet, and what of it is taken away again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab_fixture import require_lab
from tests.prefect_fixture import free_port

BIN = Path(sys.executable).parent


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of somebody with an empty VDC_HOME; whatever was started from it is stopped."""
    require_lab()
    lab_id = f"d{os.getpid() % 10**6}"
    home = tmp_path / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("VDC_", "PREFECT_"))}
    environment |= {
        "PATH": f"{BIN}:{environment['PATH']}",
        "VDC_HOME": str(home),
        "VDC_LAB_ID": lab_id,
        "VDC_PREFECT_PORT": str(free_port()),
    }
    try:
        yield environment
    finally:
        for command in (["vdc", "down"], ["vdc", "lab", "down", "--purge"]):
            subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True)
