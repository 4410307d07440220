"""The environment that Prefect is given: in our processes (`apply`) and in the server's (`server_env`).

Prefect reads its settings once, when it is imported, and logging with them: so `apply` comes first. What
decides *which* server is used and that nothing leaves the machine is set here whatever the caller's
environment says; tuning yields to a variable that the operator has set. Measurements: docs/prefect.md.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from vdc.settings import Settings

HEARTBEAT_S = 30
"""Prefect's smallest interval between the heartbeats of a flow run."""

NOBODY = Path(__file__).with_name("nobody.pem")
"""One certificate (whose key was never kept). Prefect loads all authorities of the world for each flow run,
45 ms of CPU, also for a server on plain HTTP, where none is asked for."""

FORWARDED_LOGGERS = ("vdc", "drivers", "tasks", "flows")
"""Standard library loggers whose records are kept with the flow run."""

GARBAGE_OBJECTS = 50_000


def collect_garbage_rarely() -> None:
    """Call before importing Prefect, whose millions of objects Python would look through again and again.

    With its default of 700 new objects for a look, that took a quarter of the import.
    """
    gc.set_threshold(GARBAGE_OBJECTS, 20, 20)


def _identity(settings: Settings) -> dict[str, str]:
    return {
        "PREFECT_HOME": str(settings.prefect_home),
        "PREFECT_API_URL": settings.api_url,
        # Or a process that misses its server would silently start one of its own.
        "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }


def _client_tuning(*, verbose: bool) -> dict[str, str]:
    return {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
        # Tasks act on the world: none may be answered from a cache, and no result is worth a file.
        "PREFECT_TASKS_DEFAULT_NO_CACHE": "true",
        "PREFECT_TASKS_DEFAULT_PERSIST_RESULT": "false",
        # Prefect's own default has no limit. Concurrency per host is bounded by the tasks themselves.
        "PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS": "32",
        # Client and server are one installation: no handshake, no CSRF token (the server asks for none).
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "PREFECT_CLIENT_CSRF_SUPPORT_ENABLED": "false",
        "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
        "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(FORWARDED_LOGGERS),
        # The same loggers speak outside of flows too (a listing, a plan): nothing to keep then.
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        # "Finished in state Completed()" for each task run says nothing that the run's row does not.
        "PREFECT_LOGGING_LOGGERS_PREFECT_TASK_RUNS_LEVEL": "INFO" if verbose else "WARNING",
        # What went wrong is said once, in our words; the log with its tracebacks is kept with the flow run.
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO" if verbose else "CRITICAL",
    }


def client_env(settings: Settings, *, verbose: bool = False) -> dict[str, str]:
    """Variables for a process that runs flows, a worker for instance, on top of its environment."""
    tuning = _client_tuning(verbose=verbose)
    if settings.api_url.startswith("http:"):
        tuning["PREFECT_API_SSL_CERT_FILE"] = str(NOBODY)
    return {name: os.environ.get(name, value) for name, value in tuning.items()} | _identity(settings)


def apply(settings: Settings, *, verbose: bool = False) -> None:
    """Set the environment of this process for Prefect, which was not imported, or with this one."""
    environment = client_env(settings, verbose=verbose)
    if "prefect" in sys.modules:
        if environment.items() <= os.environ.items():
            return  # a command's second flow
        raise RuntimeError("prefect_env.apply() must be called before prefect is imported.")
    collect_garbage_rarely()
    # A profile of the user's own Prefect is not to be found in our PREFECT_HOME, and Prefect would refuse.
    os.environ.pop("PREFECT_PROFILE", None)
    os.environ.update(environment)
    for name in FORWARDED_LOGGERS:
        # Prefect attaches its handler to these but leaves the level, which would be the root's WARNING.
        logging.getLogger(name).setLevel(logging.INFO)


def server_env(settings: Settings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The complete environment of the server that `vdc up` starts."""
    environment = os.environ if environment is None else environment
    # Of the caller's Prefect variables only those for a server are meant for it. An empty one is left out:
    # an empty PREFECT_SERVER_API_AUTH_STRING would lock everybody out.
    inherited = {
        name: value
        for name, value in environment.items()
        if not name.startswith("PREFECT_") or (name.startswith("PREFECT_SERVER_") and value)
    }
    tuning = {
        # One transaction for many task runs and events instead of one for each.
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
        # Prefect's feed of events is not kept: almost half of the server's work, to say again what the rows
        # of runs and our own operations say. Automations do not need it: they see events as they pass.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_ENABLED": "false",
        # Schedules make 600 flow runs a day: forgotten after 90 days (its default), with logs and artifacts.
        # What was done stays in our own operations.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "flow_runs",
        # For whoever sets it to true.
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "200",
        "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
        # A burst of writes on SQLite makes others wait rather than fail.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{settings.prefect_home}/prefect.db",
    }
    forced = {
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        # The page is served from our port, but would call Prefect's default one.
        "PREFECT_SERVER_UI_API_URL": settings.api_url,
        # As `prefect server start` does: the complete application, its services included.
        "PREFECT__SERVER_FINAL": "1",
    }
    return {**tuning, **inherited, **_identity(settings), **forced}
