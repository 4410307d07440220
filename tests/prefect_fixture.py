"""One real Prefect server for a test session, started and stopped as `vdc up` and `vdc down` do."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.control import prefect_env, prefect_objects, server
from tests.flows.site import settings
from vdc.settings import Settings, load


def free_port() -> int:
    """A port of the loopback interface that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a running server, also in the environment of this process and its children.

    A test that needs an inventory of its own sets VDC_DATABASE_URL; VDC_HOME stays the server's.
    """
    home: Path = tmp_path_factory.mktemp("vdc-home")
    before = {name: os.environ.get(name) for name in ("VDC_HOME", "VDC_PREFECT_PORT", "VDC_PREFECT_API_URL")}
    os.environ |= {"VDC_HOME": str(home), "VDC_PREFECT_PORT": str(free_port())}
    os.environ.pop("VDC_PREFECT_API_URL", None)
    of_server = load()
    try:
        server.ensure_started(of_server)
        prefect_objects.ensure_objects(of_server)
        yield of_server
    finally:
        server.ensure_stopped(of_server)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@pytest.fixture(scope="session")
def prefect_client(prefect_server: Settings) -> Iterator[Settings]:
    """Flows may be imported and called in this process, against the session's server.

    Retries pause for hundredths of a second. Whoever imports `prefect` before this fixture has it bound to
    another server for the life of the process, and is told so.
    """
    if "prefect" not in sys.modules:
        prefect_env.apply(prefect_server)
    assert os.environ.get("PREFECT_API_URL") == prefect_server.api_url, "prefect was imported too early"
    with settings(retries=2, retry_delay_s=0.01):
        # tasks.retrying reads its settings when it is imported.
        importlib.import_module("tests.flows.preload")
        if "PYTEST_XDIST_WORKER" in os.environ:  # hundreds of tests that kill, and none about the automation
            _leave_the_dead_alone()
        yield prefect_server


def _leave_the_dead_alone() -> None:
    """Make no flow run of a killed process Crashed a minute later: each costs the server a second."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for automation in client.read_automations_by_name(prefect_objects.CRASH_AUTOMATION):
            client.pause_automation(automation.id)
