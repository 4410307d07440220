"""What all flows have in common."""

from __future__ import annotations

from functools import partial
from typing import Any

from prefect import flow_engine
from prefect.task_runners import ThreadPoolTaskRunner

# Prefect's heartbeat thread sleeps in whole seconds, and the end of a flow waits for it: half a second on
# average. Prefect's own asynchronous engine does not wait; the thread emits nothing more either way.
flow_engine._send_heartbeats = partial(flow_engine._send_heartbeats, join_on_exit=False)

MAX_WORKERS = 32
"""Threads of a flow run. How many act on one host is bounded apart from this (per_host_concurrency)."""


def flow_options() -> dict[str, Any]:
    """Arguments for `@flow`. Nothing is persisted: what counts is in the inventory."""
    return {
        "task_runner": ThreadPoolTaskRunner(max_workers=MAX_WORKERS),
        "persist_result": False,
        "validate_parameters": True,
    }
