"""A call in a forked child of this process."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


def in_fork(function: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """What `function` returns in the child. Fails where it does not return in time."""
    context = multiprocessing.get_context("fork")
    mine, its = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(function, its))
    child.start()
    its.close()
    try:
        assert mine.poll(timeout_s), "the forked child gave no answer in time"
        error, answer = mine.recv()
        assert not error, error
        return answer
    finally:
        child.kill()
        child.join()


def _run(function: Callable[[], Any], pipe: Connection) -> None:
    try:
        pipe.send(("", function()))
    except BaseException as error:  # noqa: BLE001 - whatever ended it is the answer
        pipe.send((f"{type(error).__name__}: {error}", None))
    # At once: threads of other libraries, Prefect's among them, wait at the end for what a fork has not got.
    os._exit(0)
