"""When each step of each machine began and ended, for whoever looks on in this process.

Where nobody listens a step costs the reading of a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from vdc.model import VmSpec


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a machine, or of a whole batch (no machine). Instants are seconds since 1970."""

    name: str
    begun: float
    ended: float
    machine: VmSpec | None
    error: str


Listener = Callable[[Step], object]

_listeners: list[Listener] = []

_ZERO = time.time() - time.perf_counter()


def now() -> float:
    """Seconds since 1970 that never go back while this process lives."""
    return _ZERO + time.perf_counter()


def report(
    name: str, begun: float, machine: VmSpec | None = None, error: str = "", *, ended: float | None = None
) -> None:
    """A step that began at `begun` is over, now unless `ended` says when."""
    if _listeners:
        step = Step(name, begun, now() if ended is None else ended, machine, error)
        for listener in _listeners:
            listener(step)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
