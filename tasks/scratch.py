"""Temporary directories on the control machine that a killed process does not leave behind for ever."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from tasks.environment import environment

PREFIX = "scratch-"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory of this process, gone at the end of the block; those of dead processes go now.

    A directory is in use while a process holds the lock on it, which ends with the process.
    """
    place = environment().settings.home / "tmp"
    place.mkdir(parents=True, exist_ok=True)
    with _locked(place):
        for left in place.glob(f"{PREFIX}*"):
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                shutil.rmtree(left)
            finally:
                os.close(descriptor)
        mine = Path(mkdtemp(prefix=PREFIX, dir=place))
        held = os.open(mine, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield mine
    finally:
        with _locked(place):
            shutil.rmtree(mine)
            os.close(held)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
