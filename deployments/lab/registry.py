"""Which labs this machine has, whoever's they are: one lab id and one loopback number for each.

Namespace names and loopback addresses are the machine's, not a VDC_HOME's, so the claims lie in /run.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.lab.layout import MANAGEMENT_PORT, Layout, host_names, management_address
from deployments.lab.processes import identify, namespaces
from vdc.errors import Busy, Conflict, NoCapacity

CLAIMS = Path("/run/vdc-labs")
NUMBERS = range(1, 251)


@dataclass(frozen=True, slots=True)
class Claim:
    home: str
    number: int
    claimer: str
    """The process that made it, as `processes.identify` names it."""


@contextmanager
def locked(file: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock, which dies with this process. Raises Busy if another holds it too long."""
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout_s
    with file.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Busy(
                        f"Another process has held {file} for {timeout_s:g} s: wait for it, then try again."
                    ) from None
                time.sleep(0.05)
        yield


def claim(layout: Layout, *, preferred: int | None = None) -> int:
    """Claim the lab's id and a free loopback number, the one it had before if that is still free.

    Raises Conflict if the id belongs to another VDC_HOME.
    """
    with locked(CLAIMS / ".lock", timeout_s=30):
        others = {lab_id: taken for lab_id, taken in _claims().items() if lab_id != layout.lab_id}
        mine = _claims().get(layout.lab_id)
        if mine and mine.home != str(layout.home) and _in_use(layout, mine):
            raise Conflict(
                f"Lab {layout.lab_id!r} belongs to VDC_HOME={mine.home}. Take it down there, or choose "
                f"another id with --lab."
            )
        if mine and mine.home == str(layout.home):
            return mine.number
        used = {taken.number for taken in others.values()}
        for number in _candidates(layout, preferred):
            if number not in used and _bindable(number):
                made = Claim(str(layout.home), number, identify(os.getpid()) or "")
                (CLAIMS / f"{layout.lab_id}.json").write_text(json.dumps(asdict(made)))
                return number
    raise NoCapacity(f"No free network among 127.77.{NUMBERS.start}.0 to 127.77.{NUMBERS.stop - 1}.0.")


def owner(layout: Layout) -> str | None:
    """VDC_HOME of the lab that goes by this id on this machine, or None if there is none."""
    taken = _claims().get(layout.lab_id)
    return taken.home if taken and _in_use(layout, taken) else None


def release(layout: Layout) -> None:
    """Give the claim back. Another VDC_HOME's claim stays."""
    with locked(CLAIMS / ".lock", timeout_s=30):
        taken = _claims().get(layout.lab_id)
        if taken and taken.home == str(layout.home):
            (CLAIMS / f"{layout.lab_id}.json").unlink()


def _candidates(layout: Layout, preferred: int | None) -> list[int]:
    """Spread by name, so that a lab finds its number free again after others came and went."""
    first = NUMBERS[zlib.crc32(f"{layout.home}:{layout.lab_id}".encode()) % len(NUMBERS)]
    return [*([preferred] if preferred else []), *NUMBERS[first - 1 :], *NUMBERS[: first - 1]]


def _claims() -> dict[str, Claim]:
    found = {}
    for file in CLAIMS.glob("*.json"):
        try:
            found[file.stem] = Claim(**json.loads(file.read_text()))
        except json.JSONDecodeError:  # its writer was killed in the middle: nothing was built on it
            continue
    return found


def _in_use(layout: Layout, taken: Claim) -> bool:
    """A claim whose maker is dead and which has no namespace is what a crash left."""
    pid = taken.claimer.split()[0] if taken.claimer else "0"
    return bool(namespaces(layout)) or identify(int(pid)) == taken.claimer


def _bindable(number: int) -> bool:
    for host in host_names(4):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((management_address(number, host), MANAGEMENT_PORT))
            except OSError:
                return False
    return True
