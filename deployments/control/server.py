"""The Prefect server of this machine: start it, look at it, stop it."""

from __future__ import annotations

import fcntl
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deployments.control.health import answers, server_daemon
from deployments.control.prefect_env import server_env
from vdc.errors import Conflict, TimedOut, Unready, VdcError
from vdc.settings import CHECKOUT, Settings

START_DEADLINE_S = 300.0
"""14 s on a quiet machine, where the first start also makes Prefect's database; 114 s at a load of 11."""
STOP_PATIENCE_S = 15.0

Report = Callable[[str], None]
"""Takes a sentence about what is going on."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    url: str
    """Of the API."""
    ui_url: str
    up: bool
    """It answers and says that it is well."""
    pid: int | None
    """Of the server that `vdc up` started, None where there is none (or it is not ours to start)."""


def ui_url(settings: Settings) -> str:
    return settings.api_url.removesuffix("/").removesuffix("/api")


def log_file(settings: Settings) -> Path:
    return settings.home / "log" / "prefect-server.log"


def read_status(settings: Settings) -> ServerStatus:
    """Observe the server; never raises for one that is down."""
    pid = None if settings.prefect_api_url else server_daemon(settings).pid()
    ours = settings.prefect_api_url != "" or pid is not None
    return ServerStatus(settings.api_url, ui_url(settings), ours and answers(settings), pid)


def ensure_started(settings: Settings, report: Report = lambda _: None) -> bool:
    """Start the server unless it runs, and wait until it is well. True where this call started it.

    Raises Conflict where somebody else has the port, Unready where a server of the user's own choice
    does not answer, TimedOut where ours does not become well in time.
    """
    if settings.prefect_api_url:
        if not answers(settings):
            raise Unready(
                f"No Prefect server answers at {settings.api_url}: check the setting prefect_api_url."
            )
        return False
    with alone(settings):
        daemon = server_daemon(settings)
        found = daemon.pid() is not None
        if found and answers(settings):
            return False
        if not found:
            _require_free_port(settings)
            settings.prefect_home.mkdir(parents=True, exist_ok=True)
            daemon.start(
                _command(settings),
                env=server_env(settings),
                cwd=settings.prefect_home,
                log=log_file(settings),
            )
        _wait_until_well(settings, report)
        return not found


def ensure_stopped(settings: Settings) -> bool:
    """Stop the server that `ensure_started` started. True where this call did it."""
    with alone(settings):
        return server_daemon(settings).stop(patience_s=STOP_PATIENCE_S)


def become(settings: Settings) -> NoReturn:
    """Turn this process into the server. Raises Conflict where it runs, or somebody else has the port."""
    _require_free_port(settings)
    settings.prefect_home.mkdir(parents=True, exist_ok=True)
    server_daemon(settings).become(_command(settings), env=server_env(settings), cwd=settings.prefect_home)


def wait_until_well(settings: Settings) -> None:
    """Wait for a server that somebody else starts. Raises TimedOut."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not answers(settings):
        if time.monotonic() > deadline:
            raise TimedOut(f"No Prefect server answered at {settings.api_url} in {START_DEADLINE_S:.0f} s.")
        time.sleep(0.5)


def _command(settings: Settings) -> list[str]:
    # What `prefect server start` runs, without its command line around it: half the memory and 2 s less.
    command = [sys.executable, "-m", "uvicorn", "--factory", "deployments.control.app:create_app"]
    command += ["--app-dir", str(CHECKOUT)]
    # Each event of a task run is a small message over loopback: not worth compressing.
    command += ["--no-access-log", "--ws-per-message-deflate", "false"]
    return [*command, "--host", "127.0.0.1", "--port", str(settings.prefect_port)]


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Two `vdc up` at the same time: the second waits for the first, then finds its server."""
    lock = settings.home / "run" / "control.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _require_free_port(settings: Settings) -> None:
    with socket.socket() as probe:
        # As the server does; a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", settings.prefect_port))
        except OSError as error:
            raise Conflict(
                f"Port {settings.prefect_port} on 127.0.0.1 cannot be used for the Prefect server "
                f"({error.strerror}): set prefect_port in {settings.home / 'vdc.toml'} "
                "or VDC_PREFECT_PORT to a free port."
            ) from error


def _wait_until_well(settings: Settings, report: Report) -> None:
    daemon, begun, told = server_daemon(settings), time.monotonic(), 0
    report(f"Starting the Prefect server on {ui_url(settings)} ...")
    while not answers(settings):
        waited = time.monotonic() - begun
        if daemon.pid() is None:
            raise VdcError(
                f"The Prefect server ended while starting: {_last_words(settings)} "
                f"(log: {log_file(settings)})."
            )
        if waited > START_DEADLINE_S:
            raise TimedOut(
                f"The Prefect server did not answer within {START_DEADLINE_S:.0f} s: "
                f"see {log_file(settings)}; `vdc down` stops it."
            )
        if waited >= told + 5:
            told = int(waited)
            report(f"... {told} s")
        time.sleep(0.1)


def _last_words(settings: Settings) -> str:
    lines = log_file(settings).read_text(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it said nothing"
