"""Acting on many machines at once: bounded on each host, so that a slow host delays its own machines only."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from prefect.futures import PrefectConcurrentFuture
from prefect.tasks import Task
from prefect.utilities.annotations import quote
from sqlalchemy.orm import Session

from tasks import progress, timing
from tasks.environment import environment
from vdc.claims.batch import Machine, mark_failing
from vdc.errors import Superseded
from vdc.inventory import write_session
from vdc.operations import Fence
from vdc.records import Outcome
from vdc.schema import utc_now

Record = Callable[[Session, Sequence[Outcome]], object]

GROUP_SIZE = 50
GROUP_AGE_S = 0.5


class Recorder:
    """Writes outcomes as they come, in groups: at most 50 at a time, none later than half a second."""

    def __init__(self, done: Record, failed: Record) -> None:
        self._done, self._failed = done, failed
        self._waiting: list[Outcome] = []
        self._since = 0.0

    def add(self, outcome: Outcome) -> None:
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(outcome)
        if len(self._waiting) >= GROUP_SIZE:
            self.flush()

    def add_together(self, outcomes: Sequence[Outcome]) -> None:
        """Write these in one transaction: all of them or none."""
        self.flush()
        self._waiting += outcomes
        self.flush()

    def due_in_s(self) -> float | None:
        """Seconds until the group must be written; None where there is none."""
        return max(0.0, self._since + GROUP_AGE_S - time.monotonic()) if self._waiting else None

    def flush(self) -> None:
        if not self._waiting:
            return
        begun = timing.now()
        with write_session(environment().url) as session:
            self._done(session, [o for o in self._waiting if not o.error])
            self._failed(session, [o for o in self._waiting if o.error])
        for outcome in self._waiting:
            timing.report("record", begun, outcome.spec, outcome.error)
        self._waiting.clear()


@dataclass(frozen=True, slots=True)
class _Job:
    task: Task[..., Any]
    machine: Machine


class _Hosts:
    """Jobs by host, so many running at a time on each."""

    def __init__(self, jobs: Sequence[_Job], limit: int) -> None:
        self._waiting: dict[str, deque[_Job]] = {}
        self._running: dict[str, int] = {}
        self._limit = limit
        for job in jobs:
            self._waiting.setdefault(job.machine.spec.host.name, deque()).append(job)

    def first(self, job: _Job) -> None:
        self._waiting.setdefault(job.machine.spec.host.name, deque()).appendleft(job)

    def finished(self, job: _Job) -> None:
        self._running[job.machine.spec.host.name] -= 1

    def ready(self, host: str) -> list[_Job]:
        jobs = []
        waiting = self._waiting.get(host, deque())
        while waiting and self._running.get(host, 0) < self._limit:
            self._running[host] = self._running.get(host, 0) + 1
            jobs.append(waiting.popleft())
        return jobs

    def names(self) -> list[str]:
        return list(self._waiting)


def act_on_each(
    what: str,
    task: Task[..., Any],
    machines: Sequence[Machine],
    fence: Fence,
    recorder: Recorder,
    *,
    undo: Task[..., Any] | None = None,
    all_or_none: bool = False,
    given: Mapping[str, object] | None = None,
) -> None:
    """Run `task` on every machine, with what else is `given`, and record each outcome.

    A machine that fails is taken back by `undo` and recorded with its error, `clean` where that worked; so
    is one that comes with a failure (the task is the way back, where there is no `undo`). With
    `all_or_none`, the successes are recorded only if there is no failure, else taken back too. What another
    process took over is left alone.
    """
    hosts = _Hosts(
        [_Job(undo or task if m.failure else task, m) for m in machines],
        environment().settings.per_host_concurrency,
    )
    finished: SimpleQueue[tuple[_Job, PrefectConcurrentFuture[Any]]] = SimpleQueue()
    held: list[Outcome] = []
    open_jobs, done = len(machines), 0
    first_failure = next((m.failure for m in machines if m.failure), "")

    def start(host: str) -> None:
        for job in hosts.ready(host):
            # quote: Prefect would search the arguments for futures, deep into every spec.
            more = {name: quote(value) for name, value in (given or {}).items()}
            future = job.task.submit(machine=quote(job.machine), fence=quote(fence), **more)
            future.add_done_callback(partial(_put, finished, job))

    for name in hosts.names():
        start(name)
    while open_jobs:
        try:
            job, future = finished.get(timeout=recorder.due_in_s())
        except Empty:
            recorder.flush()
            continue
        hosts.finished(job)
        result = future.result(raise_on_failure=False)
        machine = job.machine
        failing: list[Machine] = []
        if isinstance(result, Superseded):
            pass
        elif not isinstance(result, BaseException):
            outcome = Outcome(machine.claim, machine.spec, result, machine.failure)
            if all_or_none and not machine.failure:
                held.append(outcome)
            else:
                recorder.add(outcome)
        elif undo is not None and not machine.failure:
            first_failure = first_failure or _say(result)
            failing = _marked([replace(machine, failure=_say(result))])
        else:
            error = _say(result)
            if machine.failure:
                error = f"{machine.failure} Taking it back failed too: {error}"
            recorder.add(Outcome(machine.claim, machine.spec, utc_now(), error, clean=False))
        open_jobs -= 1
        if not failing:
            done += 1
            progress.report(what, done, len(machines))
        if not open_jobs and not failing and first_failure and held and undo is not None:
            reason = f"Taken back, as all or none was asked: {first_failure}"
            failing = _marked([Machine(o.claim, o.spec, reason) for o in held])
            done -= len(failing)
            held = []
        for machine in failing:
            assert undo is not None
            hosts.first(_Job(undo, machine))
        open_jobs += len(failing)
        for name in {job.machine.spec.host.name, *(m.spec.host.name for m in failing)}:
            start(name)
    recorder.add_together(held)


def _marked(machines: list[Machine]) -> list[Machine]:
    """Those of the machines that are ours to take back, now written down as failing."""
    with write_session(environment().url) as session:
        return mark_failing(session, machines)


def _put(finished: SimpleQueue[Any], job: _Job, future: PrefectConcurrentFuture[Any]) -> None:
    finished.put((job, future))


def _say(error: BaseException) -> str:
    return str(error) or type(error).__name__
