"""The control plane and the hosts, looked at once a second in the background while something is measured."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from drivers import processes, registry
from tasks import timing
from tasks.environment import environment
from vdc.errors import VdcError
from vdc.inventory import read_session
from vdc.model import HostRef
from vdc.operations import process_start

INTERVAL_S = 1.0
QUIET_CPUS = 0.1
"""CPUs that an idle Prefect server may use."""
SETTLE_DEADLINE_S = 120.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """What one source used at one instant. CPU seconds are counters; None: it does not have such a thing."""

    at: float
    kind: str
    """`process`, `server` (Prefect's), `database` (the inventory), `machine` (this one) or `host`."""
    name: str
    cpu_busy_s: float | None = None
    cpu_total_s: float | None = None
    memory_mib: float | None = None
    load_1m: float | None = None
    machines: int | None = None
    size_mib: float | None = None
    error: str = ""


def server_pid() -> int | None:
    """The Prefect server, if it is one that `vdc up` started here."""
    file = environment().settings.server_pid_file
    try:
        seen = json.loads(file.read_text())
        pid = int(seen["pid"])
        return pid if process_start(pid) == str(seen["start_time"]) else None
    except (OSError, ValueError, KeyError, IndexError):
        return None


def server_cpu_s() -> float | None:
    """CPU seconds that the Prefect server has used; None where it is not here."""
    pid = server_pid()
    return None if pid is None else processes.cpu_s(pid)


def wait_quiet() -> bool:
    """Wait until the Prefect server has written everything down; False where it does not come to rest.

    What is measured next has the machine for itself then.
    """
    deadline = time.monotonic() + SETTLE_DEADLINE_S
    while time.monotonic() < deadline:
        before = server_cpu_s()
        time.sleep(0.5)
        after = server_cpu_s()
        if before is None or after is None or (after - before) / 0.5 < QUIET_CPUS:
            return True
    return False


@contextmanager
def sampled(hosts: Sequence[HostRef], into: list[Sample]) -> Iterator[None]:
    """Sample while the block runs, each source in a thread of its own: one that hangs delays no other."""
    stop = threading.Event()
    sources: list[Callable[[], list[Sample]]] = [_control_plane]
    sources += [lambda host=host: [_host(host)] for host in hosts]  # type: ignore[misc]

    def repeat(look: Callable[[], list[Sample]]) -> None:
        while True:
            into.extend(look())
            if stop.wait(INTERVAL_S):
                into.extend(look())
                return

    threads = [threading.Thread(target=repeat, args=(s,), name="sampling", daemon=True) for s in sources]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _control_plane() -> list[Sample]:
    at, pid = timing.now(), server_pid()
    use = processes.read_use()
    found = [
        Sample(at, "process", "vdc", *_process(os.getpid())),
        Sample(at, "machine", "", use.cpu_busy_s, use.cpu_total_s, use.memory_used_mib, use.load_1m),
    ]
    if pid is not None:
        found.append(Sample(at, "server", "Prefect server", *_process(pid)))
    try:
        found.append(Sample(at, "database", "inventory", size_mib=_database_mib()))
    except SQLAlchemyError as error:
        found.append(Sample(at, "database", "inventory", error=str(error)))
    return found


def _process(pid: int) -> tuple[float, None, float]:
    return processes.cpu_s(pid), None, processes.memory_mib(pid)


def _host(host: HostRef) -> Sample:
    try:
        use = registry.hypervisor(host, environment().access).read_use()
    except VdcError as error:
        return Sample(timing.now(), "host", host.name, error=str(error))
    return Sample(
        timing.now(),
        "host",
        host.name,
        use.cpu_busy_s,
        use.cpu_total_s,
        use.memory_used_mib,
        use.load_1m,
        use.machines,
    )


def _database_mib() -> float:
    url = environment().url
    # Of SQLite not the files: a write-ahead log is as large as it once was, and is data only in part.
    size = "pg_database_size(current_database())"
    if urlsplit(url).scheme.startswith("sqlite"):
        size = "page_count * page_size FROM pragma_page_count, pragma_page_size"
    with read_session(url) as session:
        return float(session.scalar(text(f"SELECT {size}")) or 0) / MIB
