"""What processes of this machine, and the machine itself, use, as the kernel counts it (proc(5))."""

from __future__ import annotations

import os
from pathlib import Path

from vdc.model import HostUse

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def cpu_s(pid: int) -> float:
    """CPU seconds that `pid`, its living children and those it has waited for have used; 0 if it is gone."""
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) * _TICK_S + sum(map(cpu_s, _children(pid))) if fields else 0.0


def memory_mib(pid: int) -> float:
    """Resident memory of `pid` and its living children; pages that they share are counted for each."""
    fields = _stat(pid)
    return int(fields[21]) * _PAGE_MIB + sum(map(memory_mib, _children(pid))) if fields else 0.0


def read_use() -> HostUse:
    """Load, CPU and memory of this machine; how many virtual machines it runs is not for it to say."""
    ticks = list(map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]))
    memory = {
        line.partition(":")[0]: int(line.split()[1]) / 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
    }
    return HostUse(
        load_1m=os.getloadavg()[0],
        machines=None,
        cpu_busy_s=(sum(ticks) - ticks[3] - ticks[4]) * _TICK_S,
        cpu_total_s=sum(ticks) * _TICK_S,
        memory_used_mib=memory["MemTotal"] - memory["MemAvailable"],
        memory_mib=memory["MemTotal"],
    )


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    except (FileNotFoundError, ProcessLookupError):
        pass  # a thread that ended while we looked, or the process
    return found
