"""Programs of the operating system: which are there, and running them with a deadline."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from vdc.errors import DriverFailure, Refused, TimedOut

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_LINES = 8


def require_programs(programs: Mapping[str, str], purpose: str) -> None:
    """`programs` maps a program to its Debian package. Raises Refused naming what is missing."""
    missing = sorted(name for name in programs if shutil.which(name, path=SEARCH_PATH) is None)
    if missing:
        packages = sorted({programs[name] for name in missing})
        raise Refused(
            f"{purpose} needs programs that are not installed: {', '.join(missing)}. "
            f"Type: apt-get install {' '.join(packages)}"
        )


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float = 30.0,
    stdin: str = "",
    cwd: Path | None = None,
    log: Path | None = None,
    host: str = "",
) -> str:
    """Run a program and return its standard output, or append all it says to `log` and return "".

    Raises DriverFailure with the end of what it said if it fails, TimedOut if it misses its deadline.
    """
    command = shlex.join(map(str, argv))
    environment = {
        **os.environ,
        "PATH": SEARCH_PATH,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    # Files, not pipes: a daemon that a program leaves behind must not keep us waiting for the end of one.
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as out,
        log.open("ab+") if log else tempfile.TemporaryFile() as said,
    ):
        given.write(stdin.encode())
        given.seek(0)
        try:
            done = subprocess.run(
                argv,
                stdin=given,
                stdout=said if log else out,
                stderr=said,
                timeout=timeout_s,
                cwd=cwd,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"`{command}` did not return within {timeout_s:g} s.") from error
        if done.returncode:
            said.seek(0)
            stderr = tail(said.read()) + (f"\nAll of it: {log}" if log else "")
            message = f"`{command}` failed with exit code {done.returncode}: {stderr or 'no message'}"
            raise DriverFailure(message, host=host, command=command, stderr=stderr)
        out.seek(0)
        return out.read().decode(errors="replace")


def tail(said: bytes) -> str:
    """The last lines of a program's output."""
    return "\n".join(said.decode(errors="replace").strip().splitlines()[-LOG_LINES:])
