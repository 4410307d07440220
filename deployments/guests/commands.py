"""Programs that build images: what they are, and how they are run."""

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


def require(programs: Mapping[str, str]) -> None:
    """`programs` maps a program to its Debian package. Raises Refused naming the missing packages."""
    missing = sorted({package for name, package in programs.items() if find(name) is None})
    if missing:
        raise Refused(f"Building the guest image needs packages. Type: apt-get install {' '.join(missing)}")


def find(program: str) -> str | None:
    return shutil.which(program, path=SEARCH_PATH)


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float = 60.0,
    cwd: Path | None = None,
    stdin: bytes = b"",
    log: Path | None = None,
) -> bytes:
    """Run a program and return its standard output, or write all it says to `log`.

    Raises DriverFailure with what it said, or TimedOut.
    """
    command = shlex.join(map(str, argv))
    environment = {
        **os.environ,
        "PATH": SEARCH_PATH,
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    with tempfile.TemporaryFile() as given, log.open("ab+") if log else tempfile.TemporaryFile() as said:
        given.write(stdin)
        given.seek(0)
        try:
            done = subprocess.run(
                argv,
                stdin=given,
                stdout=said if log else subprocess.PIPE,
                stderr=said,
                timeout=timeout_s,
                cwd=cwd,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"`{command}` did not return within {timeout_s:g} s.") from error
        if done.returncode:
            said.seek(0)
            stderr = tail(said.read())
            raise DriverFailure(f"`{command}` failed: {stderr}", command=command, stderr=stderr)
    return done.stdout or b""


def package_versions(names: Sequence[str]) -> list[str]:
    """`name=version` of installed packages, in alphabetical order. Raises Refused for one that is missing."""
    try:
        shown = run(["dpkg-query", "--show", "--showformat=${Package}=${Version}\\n", *names])
    except DriverFailure as error:
        raise Refused(f"Packages are missing. Type: apt-get install {' '.join(names)}") from error
    return sorted(shown.decode().split())


def tail(said: bytes, lines: int = 8) -> str:
    return "\n".join(said.decode(errors="replace").strip().splitlines()[-lines:])
