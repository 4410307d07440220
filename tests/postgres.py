"""A real PostgreSQL server for a test session, and a fresh database for each test.

The server is Debian's, run from a directory of its own as user `postgres` (it refuses root). It listens on a
unix socket in a directory that nobody else can enter, and on no network.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.requires import missing

USER = "postgres"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
PR_SET_PDEATHSIG = 1

# A test's data need not survive a power cut.
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


@dataclass
class PostgresServer:
    """A running server. `directory` holds its socket; databases are numbered."""

    directory: Path
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={self.directory}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(host=str(self.directory), user=USER, dbname=database, autocommit=True)

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database, which is dropped at the end whoever is still connected."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            with self.connect() as connection:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _binaries() -> Path:
    """The directory of the newest server installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    if not found:
        missing("PostgreSQL's server is not installed (Debian package: postgresql)")
    return found[-1].parent


def _as_user() -> dict[str, Any]:
    """Arguments for subprocess that leave root, if we are root."""
    if os.geteuid() != 0:
        return {}
    try:
        group = pwd.getpwnam(USER).pw_gid
    except KeyError:
        missing(f"there is no user {USER!r} to run PostgreSQL as (Debian package: postgresql)")
    return {"user": USER, "group": group, "extra_groups": []}


_libc = ctypes.CDLL(None)


def _end_with_parent() -> None:
    """A killed test run takes its server along."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGQUIT)


@contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Start a server; it is gone, with its directory, when the context ends."""
    binaries, as_user = _binaries(), _as_user()
    directory = Path(tempfile.mkdtemp(prefix="vdc-postgres-"))
    log = directory / "log"
    try:
        if as_user:
            shutil.chown(directory, USER, as_user["group"])
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
        initdb = [str(binaries / "initdb"), "--auth=trust", f"--username={USER}", "--encoding=UTF8"]
        subprocess.run(
            [*initdb, "--locale=C.UTF-8", "--no-sync", "--no-instructions", str(directory / "data")],
            check=True,
            cwd=directory,
            env=environment,
            stdout=subprocess.DEVNULL,
            timeout=START_TIMEOUT_S,
            **as_user,
        )
        settings = [f"--{name}={value}" for name, value in SETTINGS.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [str(binaries / "postgres"), "-D", str(directory / "data"), "-k", str(directory), *settings],
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
                **as_user,
            )
        try:
            server = PostgresServer(directory)
            _wait_until_ready(server, process, log)
            yield server
        finally:
            _stop(process)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            server.connect().close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"PostgreSQL did not start ({error}); its log:\n{log.read_text()}"
                ) from error
            time.sleep(0.02)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # "fast": clients are sent away
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGQUIT)  # "immediate"; its children notice by themselves
        process.wait(STOP_TIMEOUT_S)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A server for the whole session (one in each worker of pytest-xdist)."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """SQLAlchemy's URL of an empty PostgreSQL database."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def inventory_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLAlchemy's URL of an empty database, once for each kind that an inventory may live in."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'inventory.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
