"""What the processes of one test run share: a directory, in which they agree whose turn it is.

One test runs alone, or each process its own.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Turns:
    """Locks in a directory that the processes share."""

    def __init__(self, place: str) -> None:
        self.place = Path(place)
        self.mine = False
        """Whether this process made it, and is the last one to use it."""

    @classmethod
    def make(cls) -> Turns:
        made = cls(tempfile.mkdtemp(prefix="vdc-tests-"))
        made.mine = True
        return made

    def remove(self) -> None:
        shutil.rmtree(self.place)

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Wait until this test may run; with `alone`, until all others have ended, while none begins."""
        kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        with (self.place / "door").open("w") as door, (self.place / "room").open("w") as room:
            fcntl.flock(door, kind)
            fcntl.flock(room, kind)
            if not alone:
                fcntl.flock(door, fcntl.LOCK_UN)
            try:
                yield
            finally:
                # A child that the test left would keep what is only closed.
                fcntl.flock(room, fcntl.LOCK_UN)
                fcntl.flock(door, fcntl.LOCK_UN)


TURNS = pytest.StashKey[Turns]()
