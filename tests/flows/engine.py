"""Flows without Prefect: a simulated engine, for tests of what flows do rather than of who runs them.

A flow is its function, with validated arguments; a task is its function, called again as its retries and
its `retry_condition_fn` say; what is submitted runs in threads. Left out is all that Prefect keeps: runs,
their states, logs and artifacts. A run costs hundredths of a second of CPU instead of half a second, and
there are thousands of them. Tests marked `prefect` use the real engine and a real server: each flow has some.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal
from unittest.mock import patch

import pytest

from vdc.settings import Settings

Engine = Literal["prefect", "simulated"]

_threads: ContextVar[ThreadPoolExecutor] = ContextVar("threads of the running flow")


@dataclass(frozen=True)
class Ended:
    """What a `retry_condition_fn` asks of a failed task run's state."""

    error: Exception

    def result(self, *, raise_on_failure: bool = True) -> Exception:
        if raise_on_failure:
            raise self.error
        return self.error


@dataclass(frozen=True)
class Submitted:
    """What flows use of a Prefect future."""

    future: Future[Any]

    def result(self, *, raise_on_failure: bool = True) -> Any:
        error = self.future.exception()
        return self.future.result() if error is None or raise_on_failure else error

    def add_done_callback(self, callback: Callable[[Submitted], None]) -> None:
        self.future.add_done_callback(lambda _: callback(self))


@cache
def _validated(function: Callable[..., Any]) -> Any:
    """What Prefect makes at each call to check the arguments: a model of them, which takes milliseconds."""
    from prefect._internal.pydantic.validated_func import ValidatedFunction

    return ValidatedFunction(function, config={"arbitrary_types_allowed": True})


def _run_flow(flow: Any, *args: Any, **kwargs: Any) -> Any:
    from prefect.utilities.callables import get_call_parameters

    from flows.settings import MAX_WORKERS

    given = flow.validate_parameters(get_call_parameters(flow.fn, args, kwargs))
    with ThreadPoolExecutor(MAX_WORKERS) as threads:
        token = _threads.set(threads)
        try:
            return flow.fn(**given)
        finally:
            _threads.reset(token)


def _run_task(task: Any, *args: Any, **kwargs: Any) -> Any:
    positional, named = [_plain(a) for a in args], {name: _plain(a) for name, a in kwargs.items()}
    for attempt in range(task.retries + 1):
        try:
            return task.fn(*positional, **named)
        except Exception as error:
            again = task.retry_condition_fn
            if attempt == task.retries or not (again is None or again(task, None, Ended(error))):
                raise
            time.sleep(_delay_s(task, attempt))
    raise AssertionError("unreachable: the last attempt returns or raises")


def _plain(argument: Any) -> Any:
    from prefect.utilities.annotations import quote

    return argument.unquote() if isinstance(argument, quote) else argument


def _delay_s(task: Any, attempt: int) -> float:
    delays = task.retry_delay_seconds
    delay = delays[min(attempt, len(delays) - 1)] if isinstance(delays, list) else float(delays or 0)
    return float(delay) * random.uniform(1, 1 + (task.retry_jitter_factor or 0))


def _submit_task(task: Any, *args: Any, **kwargs: Any) -> Submitted:
    context = copy_context()
    return Submitted(_threads.get().submit(context.run, _run_task, task, *args, **kwargs))


@contextmanager
def running_on(engine: Engine) -> Iterator[None]:
    """Who runs the flows that this process calls."""
    if engine == "prefect":
        yield
        return
    from prefect.flows import Flow
    from prefect.tasks import Task

    with ExitStack() as patches:
        patches.enter_context(patch("prefect.flows.ValidatedFunction", lambda fn, config: _validated(fn)))
        patches.enter_context(patch.object(Flow, "__call__", _run_flow))
        patches.enter_context(patch.object(Task, "__call__", _run_task))
        patches.enter_context(patch.object(Task, "submit", _submit_task))
        yield


@pytest.fixture
def engine(prefect_client: Settings, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Who runs the flows of a test: Prefect of those that are marked `prefect`, else the simulated engine."""
    chosen: Engine = "prefect" if request.node.get_closest_marker("prefect") else "simulated"
    with running_on(chosen):
        yield chosen
