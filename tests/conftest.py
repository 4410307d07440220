"""Fixtures that several kinds of tests share. Each costs nothing until a test asks for it."""

from __future__ import annotations

import sys

import pytest

from tests.ec2_fixture import ec2, ec2_endpoint
from tests.flows.engine import engine
from tests.lab_fixture import lab
from tests.postgres import inventory_url, postgres_server, postgres_url
from tests.prefect_fixture import prefect_client, prefect_server

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that at the end no process has one of them and the others nothing."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Prefect is bound to a server when it is imported, and the tests' server does not run yet."""
    if "prefect" in sys.modules:
        raise pytest.UsageError("A test module imports prefect (tasks, flows) at its top: do it in the test.")
