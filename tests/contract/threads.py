"""Several threads at one driver."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
A = TypeVar("A")

THREADS = 8
TIMEOUT_S = 120.0


def at_once(call: Callable[[A], T], arguments: Sequence[A]) -> list[T]:
    """The answers of `call` for each argument, all started at the same moment. Raises the first error."""
    ready = threading.Barrier(len(arguments))

    def run(argument: A) -> T:
        ready.wait(TIMEOUT_S)
        return call(argument)

    with ThreadPoolExecutor(len(arguments)) as pool:
        futures = [pool.submit(run, argument) for argument in arguments]
        return [future.result(TIMEOUT_S) for future in futures]
