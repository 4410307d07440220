"""Processes that run flows, to be stopped and killed by tests.

They are forked from a server that has Prefect and the flows imported: a fresh interpreter would take three
seconds of CPU for that, a fork takes a hundredth.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from tests.flows.engine import Engine, running_on

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a process returned, or the error that it ended with."""

    value: Any = None
    error: str = ""
    message: str = ""


def _serve(
    pipe: Connection, env: Mapping[str, str], engine: Engine, function: Callable[..., Any], args: Any
) -> None:
    # Nobody but the test ends this process; an interrupted test run kills it in its `finally`.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(env)
    from tasks.environment import environment

    environment.cache_clear()
    try:
        with running_on(engine):
            answer = Answer(function(*args))
    except BaseException as error:  # noqa: BLE001 - whatever ended it is the answer
        answer = Answer(error=type(error).__name__, message=str(error))
    pipe.send(answer)


@dataclass
class Child:
    process: BaseProcess
    _pipe: Connection

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def answer(self, timeout_s: float = DEADLINE_S) -> Answer:
        """Wait for its end. Raises where it was killed, or does not end."""
        assert self._pipe.poll(timeout_s), f"process {self.pid} does not end"
        answer: Answer = self._pipe.recv()
        self.process.join(timeout_s)
        return answer

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.process.join(DEADLINE_S)
        assert not self.process.is_alive()

    def interrupt(self) -> None:
        """SIGINT, as Ctrl-C sends it; the function must have asked for it (`default_int_handler`)."""
        os.kill(self.pid, signal.SIGINT)

    def stop(self) -> None:
        """SIGSTOP, and wait until every thread of it stands still."""
        os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + DEADLINE_S
        while self._running():
            assert time.monotonic() < deadline, f"process {self.pid} does not stop"
            time.sleep(0.002)

    def _running(self) -> bool:
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with open(f"/proc/{self.pid}/task/{task}/stat") as stat:
                if stat.read().rpartition(")")[2].split()[0] != "T":
                    return True
        return False

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class Processes:
    """Starts processes with the settings of a test; all are gone when the test is over."""

    def __init__(self, env: Mapping[str, str], engine: Engine) -> None:
        self._env = dict(env)
        self._engine = engine
        self._context = multiprocessing.get_context("forkserver")
        # What is imported before the first fork; PREFECT_* must be in the environment by then.
        self._context.set_forkserver_preload(["tests.flows.preload"])
        self._started: list[Child] = []

    def start(self, function: Callable[..., Any], *args: Any, **env: object) -> Child:
        """Run `function(*args)` in a process of its own; `env` are more settings (`retries=0`)."""
        mine, its = self._context.Pipe(duplex=False)
        more = {f"VDC_{name.upper()}": str(value) for name, value in env.items()}
        process = self._context.Process(
            target=_serve, args=(its, self._env | more, self._engine, function, args), daemon=True
        )
        process.start()
        its.close()
        child = Child(process, mine)
        self._started.append(child)
        return child

    def end(self) -> None:
        for child in self._started:
            if child.process.is_alive():
                child.process.kill()
            child.process.join(DEADLINE_S)


@contextmanager
def processes(env: Mapping[str, str], engine: Engine = "prefect") -> Iterator[Processes]:
    made = Processes(env, engine)
    try:
        yield made
    finally:
        made.end()


def die_at_commit(n: int, function: Any, *args: Any) -> Any:
    """Run `function` in this process, which is killed when it is about to commit for the n-th time."""
    from sqlalchemy import event

    from tasks.environment import environment
    from vdc.inventory import engine

    seen = [0]

    def count(connection: Any) -> None:
        if connection.get_execution_options().get("vdc_write"):
            seen[0] += 1
            if seen[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine(environment().url), "commit", count)
    return function(*args)
