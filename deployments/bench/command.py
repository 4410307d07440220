"""Running the `vdc` command and what that cost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

from vdc.errors import OperationFailed
from vdc.settings import CHECKOUT


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command: seconds from start to end, CPU seconds, and what it printed."""

    wall_s: float
    cpu_s: float
    stdout: str


def vdc(*arguments: str, environment: dict[str, str] | None = None) -> Ran:
    """Run `vdc` with these arguments. Raises OperationFailed where it fails."""
    return python("-m", "interfaces.cli.main", *arguments, environment=environment)


def python(*arguments: str, environment: dict[str, str] | None = None) -> Ran:
    """Run this interpreter, in the checkout. Raises OperationFailed where it fails.

    With compiled modules, as users have them, also where this environment asks for none.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as output:
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdout=output,
            cwd=CHECKOUT,
            env={**inherited, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
        output.seek(0)
        stdout = output.read().decode()
    if process.returncode:
        shown = " ".join(arguments)[:80]
        raise OperationFailed(f"`{shown}` ended with exit code {process.returncode}.", "")
    return Ran(wall_s, usage.ru_utime + usage.ru_stime, stdout)
