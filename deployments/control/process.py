"""A process that outlives its starter, found again without ever mistaking another one for it.

A process id alone is recycled by the kernel: the pid file also holds the boot and the start time, and a
process is ours only while all three agree. What it has started is known by a variable in its environment,
also when the process itself is dead.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from vdc.errors import Conflict

MARK = "VDC_DAEMON"
"""Variable that a daemon and all its descendants have in their environment: the daemon's pid file."""


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None if it is gone (or a zombie)."""
    try:
        # The command's name, in parentheses, may itself hold spaces and parentheses: count from the last.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


class Daemon:
    """One background process, remembered in `pid_file`."""

    def __init__(self, pid_file: Path) -> None:
        self.pid_file = pid_file

    def pid(self) -> int | None:
        """The process id while it lives, None otherwise."""
        try:
            seen = json.loads(self.pid_file.read_text())
            pid, started, boot = int(seen["pid"]), int(seen["start_time"]), str(seen["boot_id"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return pid if boot == boot_id() and started == start_time(pid) else None

    def start(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> subprocess.Popen[bytes]:
        """Start `command` in a session of its own, output appended to `log`, and remember it."""
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                env={**env, MARK: str(self.pid_file)},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._remember(process.pid)
        return process

    def become(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path) -> NoReturn:
        """Turn this process into the daemon, in the foreground: for a supervisor such as systemd.

        Raises Conflict where it runs already.
        """
        if (pid := self.pid()) is not None:
            raise Conflict(f"It runs already, as process {pid} ({self.pid_file}): `vdc down` stops it.")
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self._remember(os.getpid())
        os.chdir(cwd)
        os.execve(command[0], list(command), {**env, MARK: str(self.pid_file)})  # noqa: S606 (no shell wanted)

    def _remember(self, pid: int) -> None:
        content = json.dumps({"pid": pid, "start_time": start_time(pid), "boot_id": boot_id()})
        # Whole or not at all: a half-written file would lose the process.
        draft = self.pid_file.with_suffix(".new")
        draft.write_text(content)
        draft.replace(self.pid_file)

    def stop(self, *, patience_s: float) -> bool:
        """End the process and its descendants: TERM, then KILL after `patience_s`. False if there was none.

        Descendants are ended also where the process itself is dead.
        """
        found = False
        for signal_number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            deadline, told = time.monotonic() + wait_s, set[int]()
            while (living := self._living()) and time.monotonic() < deadline:
                found = True
                for pid in living - told:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal_number)
                told |= living
                time.sleep(0.05)
        self.pid_file.unlink(missing_ok=True)
        return found

    def stop_descendants(self, *, patience_s: float) -> None:
        """Ask what the process has started to end, and wait for that; the process stands still meanwhile.

        For a process that would kill its children as soon as it is asked to end itself.
        """
        pid = self.pid()
        if pid is None:
            return
        deadline, told = time.monotonic() + patience_s, set[int]()
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                while (living := self._living() - {pid}) and time.monotonic() < deadline:
                    for descendant in living - told:
                        with suppress(ProcessLookupError):
                            os.kill(descendant, signal.SIGTERM)
                    told |= living
                    time.sleep(0.05)
            finally:
                os.kill(pid, signal.SIGCONT)

    def _living(self) -> set[int]:
        """The process, and whatever has our mark."""
        mark, pid = f"{MARK}={self.pid_file}".encode(), self.pid()
        marked = {other for other, environ in _environs() if mark in environ.split(b"\0")}
        return marked if pid is None else marked | {pid}


def _environs() -> Iterator[tuple[int, bytes]]:
    """The processes of this machine with their environments, those that we may see."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # A zombie's is empty.
            yield int(entry.name), (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
