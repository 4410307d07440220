"""What all flows have in common."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from prefect import flow_engine
from prefect.client.schemas.objects import State
from prefect.states import exception_to_failed_state
from prefect.task_runners import ThreadPoolTaskRunner

from vdc.errors import VdcError

# Prefect's heartbeat thread sleeps in whole seconds, and the end of a flow waits for it: half a second on
# average. Prefect's own asynchronous engine does not wait; the thread emits nothing more either way.
flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)


async def _failed(exc: BaseException | None = None, **options: Any) -> State[Any]:
    """Prefect's, but an error of ours is its own sentence, as the command line prints it."""
    state = await exception_to_failed_state(exc, **options)
    return state.model_copy(update={"message": str(exc)}) if isinstance(exc, VdcError) else state


def _plain(record: logging.LogRecord) -> bool:
    """The same in the log of the flow run: a traceback there is for what nobody has foreseen."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, VdcError):
        record.msg, record.args, record.exc_info = "%s", (str(error),), None
    return True


flow_engine.exception_to_failed_state = _failed
logging.getLogger("prefect.flow_runs").addFilter(_plain)

MAX_WORKERS = 32
"""Threads of a flow run. How many act on one host is bounded apart from this (per_host_concurrency)."""


def flow_options() -> dict[str, Any]:
    """Arguments for `@flow`. Nothing is persisted: what counts is in the inventory."""
    return {
        "task_runner": ThreadPoolTaskRunner(max_workers=MAX_WORKERS),
        "persist_result": False,
        "validate_parameters": True,
    }
