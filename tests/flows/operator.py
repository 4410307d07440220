"""An operator of a control plane of its own, as tests see one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.prefect_fixture import free_port


class Operator:
    """Types `vdc` commands into a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("VDC_")}
        self.env |= {"VDC_HOME": str(home), "VDC_PREFECT_PORT": str(free_port())}

    def vdc(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "interfaces.cli.main", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Type a command without waiting for its end."""
        command = [sys.executable, "-m", "interfaces.cli.main", *arguments]
        return subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL)

    def done(self, *arguments: str) -> str:
        seen = self.vdc(*arguments)
        assert seen.returncode == 0, seen.stderr
        assert "Traceback" not in seen.stderr
        return seen.stdout

    def server(self) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.done("status", "--json"))["server"]
        return found

    def pid(self) -> int:
        pid = self.server()["pid"]
        assert isinstance(pid, int)
        return pid
