"""One real Prefect server for a test session, started and stopped as `vdc up` and `vdc down` do."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from deployments import catalogue
from deployments.control import prefect_env, prefect_objects, server
from deployments.guests.images import cache_directory
from tests.flows.site import settings
from tests.turns import TURNS
from vdc.settings import CHECKOUT, Settings, load


def free_port() -> int:
    """A port of the loopback interface that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture(scope="session")
def prefect_server(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Settings]:
    """Settings of a running server, also in the environment of this process and its children.

    The processes of a test run share it: it idles at a thirtieth of a processor. Each has a VDC_HOME of its
    own that knows of it. A test that needs an inventory of its own sets VDC_DATABASE_URL.
    """
    shared = _shared_server(pytestconfig.stash[TURNS].place)
    home: Path = tmp_path_factory.mktemp("vdc-home")
    before = {name: os.environ.get(name) for name in ("VDC_HOME", "VDC_PREFECT_PORT", "VDC_PREFECT_API_URL")}
    os.environ |= {"VDC_HOME": str(home), "VDC_PREFECT_PORT": str(shared.prefect_port)}
    os.environ.pop("VDC_PREFECT_API_URL", None)
    known = load()
    known.server_pid_file.parent.mkdir(parents=True)
    shutil.copyfile(shared.server_pid_file, known.server_pid_file)
    try:
        yield known
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _shared_server(place: Path) -> Settings:
    """Of the test run whose processes share `place`: the first who asks starts it."""
    with (place / "prefect.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (shared := _shared_settings(place)) is not None:
            return shared
        shared = Settings(home=place / "prefect", prefect_port=free_port())
        give_database(shared)
        (place / "prefect-port").write_text(str(shared.prefect_port))
        server.ensure_started(shared)
        prefect_objects.ensure_objects(shared)
        return shared


def _shared_settings(place: Path) -> Settings | None:
    """None where nobody asked for it yet."""
    port = place / "prefect-port"
    return Settings(home=place / "prefect", prefect_port=int(port.read_text())) if port.exists() else None


def stop_shared_server(place: Path) -> None:
    """At the end of the test run, where any of its processes started it."""
    if (shared := _shared_settings(place)) is not None:
        server.ensure_stopped(shared)


def give_database(of_server: Settings) -> None:
    """What a first start and `ensure_objects` make, from a copy that is kept: it takes half a minute.

    A first start as an operator has it: tests/lab/test_demo.py.
    """
    checkout, catalogued = _short_hash(str(CHECKOUT)), _short_hash(catalogue.version())
    cache = cache_directory()
    migrated = cache / f"prefect-{version('prefect')}.db"
    furnished = cache / f"prefect-{version('prefect')}-{checkout}-{catalogued}.db"
    cache.mkdir(parents=True, exist_ok=True)
    database = of_server.prefect_home / "prefect.db"
    database.parent.mkdir(parents=True, exist_ok=True)
    # Processes of one test run start at the same time: one makes it, the others wait.
    with (cache / "prefect-for-tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not furnished.exists():
            if migrated.exists():
                shutil.copyfile(migrated, database)
            server.ensure_started(of_server)
            try:
                if not migrated.exists():
                    _keep(database, migrated)
                prefect_objects.ensure_objects(of_server)
            finally:
                server.ensure_stopped(of_server)
            for old in cache.glob(f"prefect-*-{checkout}-*.db"):
                old.unlink()
            _keep(database, furnished)
            return
        shutil.copyfile(furnished, database)


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _keep(database: Path, kept: Path) -> None:
    """Copy a database, in use or not."""
    part = kept.with_suffix(".part")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(part)) as copy:
        source.backup(copy)
        # Of the schedules: they would be late whenever it is used.
        copy.execute("DELETE FROM flow_run")
        copy.commit()
        copy.execute("PRAGMA journal_mode=DELETE")
    part.rename(kept)


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
