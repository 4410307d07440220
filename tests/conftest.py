"""Fixtures that several kinds of tests share. Each costs nothing until a test asks for it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.ec2_fixture import ec2, ec2_endpoint
from tests.flows.engine import engine
from tests.lab_fixture import lab
from tests.postgres import inventory_url, postgres_server, postgres_url
from tests.prefect_fixture import prefect_client, prefect_server, stop_shared_server
from tests.turns import TURNS, Turns

__all__ = [
    "ec2",
    "ec2_endpoint",
    "engine",
    "inventory_url",
    "lab",
    "postgres_server",
    "postgres_url",
    "prefect_client",
    "prefect_server",
]


# How long it takes to draw an example says more of what else runs than of the test.
settings.register_profile("busy machine", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


def pytest_configure(config: pytest.Config) -> None:
    """Processes of one run take turns: the first makes the place where, the others are told of it."""
    told = getattr(config, "workerinput", {}).get("turns")
    config.stash[TURNS] = Turns(told) if told else Turns.make()


def pytest_unconfigure(config: pytest.Config) -> None:
    shared = config.stash[TURNS]
    if shared.mine:
        try:
            stop_shared_server(shared.place)
        finally:
            shared.remove()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["turns"] = str(node.config.stash[TURNS].place)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    with item.config.stash[TURNS].turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that at the end no process has one of them and the others nothing.

    Those that run alone last: who waits for one then has little left to do.
    """
    items.sort(key=_when)


def _when(item: pytest.Item) -> int:
    if item.get_closest_marker("alone"):
        return 2
    return 0 if item.get_closest_marker("slow") else 1


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prefect is bound to a server when it is imported, and the tests' server does not run yet."""
    if "prefect" in sys.modules:
        raise pytest.UsageError("A test module imports prefect (tasks, flows) at its top: do it in the test.")
    # What is imported stays: to look through it for garbage took a twelfth of the tests' time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
