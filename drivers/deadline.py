"""A deadline for calls that have none of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from vdc.errors import TimedOut

T = TypeVar("T")


class _Outcome(Generic[T]):
    """What became of a call: exactly one of the two is set when it has ended."""

    value: T
    error: BaseException | None = None


def within(timeout_s: float, call: Callable[[], T], what: str) -> T:
    """Return `call()`, or raise TimedOut after `timeout_s` seconds, leaving the call to its own fate.

    The call runs in a disposable daemon thread (0.1 ms, measured; a pool of threads costs half of that,
    but then hung calls would fill it up, and its threads would keep the process from ending).
    """
    outcome: _Outcome[T] = _Outcome()

    def run() -> None:
        try:
            outcome.value = call()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.error = error

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        raise TimedOut(f"{what} did not return within {timeout_s:g} s.")
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
