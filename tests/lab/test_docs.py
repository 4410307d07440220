"""What the documentation tells a newcomer to type, typed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.prefect_fixture import give_database
from vdc.settings import CHECKOUT, Settings

pytestmark = [pytest.mark.lab, pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_command_of_the_first_steps_works(newcomer: dict[str, str]) -> None:
    give_database(Settings(home=Path(newcomer["VDC_HOME"]), prefect_port=int(newcomer["VDC_PREFECT_PORT"])))
    blocks = re.findall(r"```console\n(.*?)```", (CHECKOUT / "docs/first-steps.md").read_text(), re.DOTALL)
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    assert len(commands) > 25
    done = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(commands)],
        env=newcomer,
        cwd=CHECKOUT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "hostname=web-1" in done.stdout
    assert "Hosts and inventory agree." in done.stdout
    ends = [line for line in done.stdout.splitlines() if line.startswith(("db-1", "db-2"))]
    assert {line.split()[3] for line in ends[:2]} == {"h1", "h2"}, "the group keeps them apart"
