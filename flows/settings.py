"""What all flows have in common."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import ThreadPoolTaskRunner

MAX_WORKERS = 32
"""Threads of a flow run. How many act on one host is bounded apart from this (per_host_concurrency)."""


def flow_options() -> dict[str, Any]:
    """Arguments for `@flow`. Nothing is persisted: what counts is in the inventory."""
    return {
        "task_runner": ThreadPoolTaskRunner(max_workers=MAX_WORKERS),
        "persist_result": False,
        "validate_parameters": True,
    }
