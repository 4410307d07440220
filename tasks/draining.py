"""Moving many machines away at once, so many at a time: each move takes bandwidth from all that run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectConcurrentFuture
from prefect.utilities.annotations import quote

from tasks import progress
from tasks.environment import environment
from tasks.migration import move_and_record
from vdc.claims.migrate import Move
from vdc.errors import VdcError
from vdc.operations import Fence


@task(
    name="move-vm",
    task_run_name="move {move.spec.name} to {move.target.name}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def move_vm(move: Move, fence: Fence) -> str:
    """Move one machine, write down where it is; returns why it stayed, if so. Its steps retry themselves."""
    return move_and_record(move, fence)[1]


def move_all(moves: Sequence[Move], fence: Fence) -> None:
    """Move the machines; what became of each is in its operation."""
    waiting = deque(moves)
    finished: SimpleQueue[PrefectConcurrentFuture[str]] = SimpleQueue()
    running = done = 0
    while waiting or running:
        while waiting and running < max(1, environment().settings.drain_concurrency):
            future = move_vm.submit(move=quote(waiting.popleft()), fence=quote(fence))
            future.add_done_callback(finished.put)
            running += 1
        result = finished.get().result(raise_on_failure=False)
        running -= 1
        # What was foreseen is written down; what another process took over is left to it.
        if isinstance(result, BaseException) and not isinstance(result, VdcError):
            raise result
        done += 1
        progress.report("draining", done, len(moves))
