"""What time it is for machines, operations and bills. One place: a month can pass within a test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime


def _of_the_system() -> datetime:
    return datetime.now(UTC)


_now: Callable[[], datetime] = _of_the_system


def utc_now() -> datetime:
    return _now()


@contextmanager
def running_on(now: Callable[[], datetime]) -> Iterator[None]:
    """Within it, in this process, it is what `now` says (in UTC)."""
    global _now
    before, _now = _now, now
    try:
        yield
    finally:
        _now = before
