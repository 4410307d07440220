"""The retry policy of all tasks: transient failures only, with exponential backoff and jitter."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from tasks.environment import environment
from vdc.errors import Transient


def is_transient(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the failure in `state` is worth another attempt."""
    return isinstance(state.result(raise_on_failure=False), Transient)


def retrying() -> dict[str, Any]:
    """Arguments for `@task` on anything that acts on a host."""
    settings = environment().settings
    return {
        "cache_policy": NO_CACHE,
        "persist_result": False,
        "retries": settings.retries,
        "retry_delay_seconds": exponential_backoff(backoff_factor=settings.retry_delay_s),
        "retry_jitter_factor": 0.5,
        "retry_condition_fn": is_transient,
    }
