"""A VDC_HOME that exists for one run of the benchmark: inventory, SSH key, Prefect server of its own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.bench.figures import say
from deployments.control import prefect_env, prefect_objects, server
from deployments.control.health import call, server_daemon
from drivers.processes import cpu_s
from drivers.ssh_files import ensure_ssh_files
from vdc import inventory
from vdc.inventory import read_session
from vdc.schema import Operation
from vdc.settings import Settings, load

SETTLE_DEADLINE_S = 300.0
QUIET = 0.1
"""CPUs that an idle Prefect server may use."""


@dataclass(frozen=True)
class House:
    settings: Settings

    def server_cpu_s(self) -> float:
        """CPU seconds that the Prefect server has used."""
        pid = server_daemon(self.settings).pid()
        assert pid is not None, "it runs as long as the house stands"
        return cpu_s(pid)

    def flow_run_of(self, operation_id: str) -> str:
        with read_session(self.settings.inventory_url) as session:
            return session.get_one(Operation, operation_id).flow_run_id or ""

    def wait_recorded(self, flow_run_id: str, task_runs: int) -> float:
        """Wait until the server has written down a flow run's tasks as completed; return how long it took.

        Raises TimeoutError.
        """
        begun = time.monotonic()
        body = {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        }
        while (seen := call(self.settings, "/task_runs/count", body, timeout_s=60)) < task_runs:
            if time.monotonic() - begun > SETTLE_DEADLINE_S:
                raise TimeoutError(f"The server has recorded {seen} of {task_runs} task runs.")
            time.sleep(0.25)
        return time.monotonic() - begun

    def wait_quiet(self) -> None:
        """Wait until the server does nothing, so that what is measured next has the machine for itself."""
        deadline = time.monotonic() + SETTLE_DEADLINE_S
        while time.monotonic() < deadline:
            before = self.server_cpu_s()
            time.sleep(0.5)
            if (self.server_cpu_s() - before) / 0.5 < QUIET:
                return
        raise TimeoutError("The Prefect server did not come to rest.")


@contextmanager
def house() -> Iterator[House]:
    """Set up the house, and this process's environment for it; gone at the end, whatever happened."""
    home = Path(tempfile.mkdtemp(prefix="vdc-bench-"))
    os.environ.pop("VDC_PREFECT_API_URL", None)
    os.environ.pop("VDC_DATABASE_URL", None)
    os.environ |= {"VDC_HOME": str(home), "VDC_PREFECT_PORT": str(_free_port())}
    settings = load()
    try:
        inventory.migrate(settings.inventory_url)
        ensure_ssh_files(settings.ssh_dir)
        server.ensure_started(settings, say)
        prefect_objects.ensure_objects(settings)
        prefect_env.apply(settings)
        yield House(settings)
    finally:
        server.ensure_stopped(settings)
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
