"""A process that outlives its starter, found again without ever mistaking another one for it.

A process id alone is recycled by the kernel: the pid file also holds the boot and the start time, and a
process is ours only while all three agree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


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
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started = start_time(process.pid)
        content = json.dumps({"pid": process.pid, "start_time": started, "boot_id": boot_id()})
        # Whole or not at all: a half-written file would lose the process.
        draft = self.pid_file.with_suffix(".new")
        draft.write_text(content)
        draft.replace(self.pid_file)
        return process

    def stop(self, *, patience_s: float) -> bool:
        """End the process and its children: TERM, then KILL after `patience_s`. False if there was none."""
        pid = self.pid()
        if pid is None:
            self.pid_file.unlink(missing_ok=True)
            return False
        # It leads its own session, so its process group holds it, its children and nobody else.
        for signal_number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(pid, signal_number)
            except ProcessLookupError:
                break
            if _wait_gone(pid, wait_s):
                break
        self.pid_file.unlink(missing_ok=True)
        return True


def _wait_gone(group: int, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while _group_alive(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _group_alive(group: int) -> bool:
    """Whether any process but a zombie is in the process group."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False
