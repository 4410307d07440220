"""The worker of this machine: it runs what the Prefect UI and the schedules ask for, each in a process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from socket import gethostname
from typing import NoReturn

from deployments.catalogue import WORK_POOL
from deployments.control.prefect_env import client_env
from deployments.control.process import Daemon
from deployments.control.server import alone
from vdc.settings import CHECKOUT, Settings

POLL_S = 2
"""How often it asks for work: what somebody who pressed Run waits for, apart from the start of a process."""
STOP_PATIENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    pid: int | None
    limit: int
    """How many flow runs it runs at once."""


def worker_daemon(settings: Settings) -> Daemon:
    return Daemon(settings.home / "run" / "prefect-worker.json")


def log_file(settings: Settings) -> Path:
    return settings.home / "log" / "prefect-worker.log"


def read_status(settings: Settings) -> WorkerStatus:
    return WorkerStatus(worker_daemon(settings).pid(), settings.worker_limit)


def ensure_started(settings: Settings) -> bool:
    """Start the worker unless it runs, or none is wanted. True where this call started it.

    Flow runs of a worker that died go on, and are no concern of the new one.
    """
    with alone(settings):
        daemon = worker_daemon(settings)
        if settings.worker_limit < 1 or daemon.pid() is not None:
            return False
        daemon.start(_command(settings), env=worker_env(settings), cwd=CHECKOUT, log=log_file(settings))
        return True


def ensure_stopped(settings: Settings) -> bool:
    """Stop the worker and what it runs. True where there was something to stop.

    A flow run that is stopped says so to Prefect and leaves its operations open: reconcile finishes them.
    """
    with alone(settings):
        # Prefect's worker kills its flow runs when it is told to stop: they are told first.
        worker_daemon(settings).stop_descendants(patience_s=STOP_PATIENCE_S)
        return worker_daemon(settings).stop(patience_s=STOP_PATIENCE_S)


def become(settings: Settings) -> NoReturn:
    """Turn this process into the worker. Raises Conflict where it runs already."""
    worker_daemon(settings).become(_command(settings), env=worker_env(settings), cwd=CHECKOUT)


def worker_env(settings: Settings) -> dict[str, str]:
    """The complete environment of the worker, which its flow runs inherit: settings, secrets and all."""
    own = {
        # The work pool's command names no path, so that every machine's worker runs its own checkout.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
        "VDC_HOME": str(settings.home),
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",
        "PREFECT_WORKER_QUERY_SECONDS": str(POLL_S),
    }
    environment = {**os.environ, **client_env(settings), **own}
    # A profile of the user's own Prefect is not to be found in our PREFECT_HOME, and Prefect would refuse.
    environment.pop("PREFECT_PROFILE", None)
    return environment


def _command(settings: Settings) -> list[str]:
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process"]
    command += ["--no-create-pool-if-not-found", "--install-policy", "never"]
    return [*command, "--name", f"vdc@{gethostname()}", "--limit", str(settings.worker_limit)]
