"""Which processes belong to a lab, and how they are ended.

A process belongs to a lab if it runs in one of its network namespaces or carries its marks in the
environment. A name or a bare pid proves nothing: names are shared with other labs, pids are used again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.lab.layout import MARK_HOME, MARK_LAB, Layout
from vdc.errors import DriverFailure

NAMESPACES = Path("/run/netns")
KILL_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Selection:
    """What to look for: network namespaces (device, inode), and marks in the environment."""

    inodes: frozenset[tuple[int, int]]
    marks: frozenset[bytes]

    def matches(self, pid: int) -> bool:
        """False also for zombies, which have neither a namespace nor an environment any more."""
        try:
            seen = os.stat(f"/proc/{pid}/ns/net")
            if (seen.st_dev, seen.st_ino) in self.inodes:
                return True
            if not self.marks:
                return False
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return self.marks.issubset(environment)


def namespaces(layout: Layout) -> list[str]:
    """Names of the lab's network namespaces, half-made ones included."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(
        entry.name for entry in NAMESPACES.iterdir() if entry.name.startswith(layout.namespace_prefix)
    )


def select_lab(layout: Layout) -> Selection:
    marks = {f"{MARK_LAB}={layout.lab_id}".encode(), f"{MARK_HOME}={layout.home}".encode()}
    return Selection(_inodes(namespaces(layout)), frozenset(marks))


def select_namespace(name: str) -> Selection:
    return Selection(_inodes([name]), frozenset())


def members(selection: Selection) -> Iterator[int]:
    """Pids of the selection, except this process and those it descends from."""
    spared = _ancestry()
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in spared and selection.matches(int(entry)):
            yield int(entry)


def kill_all(selection: Selection, *, last: Collection[int] = ()) -> int:
    """SIGKILL every process of the selection and wait until they are gone; returns how many there were.

    Those in `last` are killed after the others, so that a subreaper can bury its children.
    Raises DriverFailure naming the processes that stay.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + KILL_TIMEOUT_S
    quiet = 0
    while quiet < 2:  # a process between fork and exec shows up only in a second look
        found = sorted(members(selection))
        if not found:
            quiet += 1
            continue
        quiet = 0
        if time.monotonic() > deadline:
            raise DriverFailure(f"Processes that do not die: {', '.join(map(str, found))}.")
        for pid in [pid for pid in found if pid not in last] or found:
            if _kill(pid, selection):
                killed.add(pid)
        time.sleep(0.01)
    return len(killed)


def identify(pid: int) -> str | None:
    """`pid starttime`: names this very process, also after its pid was used again. None: dead or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else f"{pid} {fields[19]}"


def read_pid(pid_file: Path) -> int | None:
    """Pid of the process that `pid_file` identifies, or None if that process is gone."""
    try:
        written = pid_file.read_text().strip()
    except FileNotFoundError:
        return None
    pid = int(written.split()[0])
    return pid if identify(pid) == written else None


def _kill(pid: int, selection: Selection) -> bool:
    """The descriptor holds the very process that is checked and killed."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not selection.matches(pid):
            return False
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def _inodes(names: Collection[str]) -> frozenset[tuple[int, int]]:
    found = set()
    for name in names:
        try:
            seen = os.stat(NAMESPACES / name)
        except FileNotFoundError:
            continue
        found.add((seen.st_dev, seen.st_ino))
    return frozenset(found)


def _ancestry() -> set[int]:
    pids, pid = set(), os.getpid()
    while pid:
        pids.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids
