"""One real Prefect server for all tests of flows, started and stopped as `vdc up` and `vdc down` do."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.control import prefect_objects, server
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
    settings = load()
    try:
        server.ensure_started(settings)
        prefect_objects.ensure_objects(settings)
        yield settings
    finally:
        server.ensure_stopped(settings)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
