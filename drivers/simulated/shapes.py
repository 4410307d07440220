"""What simulated domains have of CPUs and memory, and what their guests let us change of it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from drivers.simulated.power import ON
from vdc.errors import NotFound
from vdc.model import DomainSpec, ShapeSeen

Execute = Callable[[str, tuple[Any, ...]], sqlite3.Cursor]

_OF = " FROM shapes WHERE host = ? AND domain = ?"


def described(spec: DomainSpec) -> dict[str, int]:
    """What a start needs of the description."""
    return {"vcpu": spec.vcpu, "max_vcpu": max(spec.vcpu, spec.max_vcpu), "memory_mib": spec.memory_mib}


def boot(execute: Execute, host: str, domain: str, spec: dict[str, Any]) -> None:
    """The guest begins with what it is described with."""
    vcpu, memory_mib = spec["vcpu"], spec["memory_mib"]
    values = (host, domain, vcpu, vcpu, spec["max_vcpu"], memory_mib, memory_mib)
    execute("REPLACE INTO shapes VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def carry(execute: Execute, domain: str, source: str, target: str) -> None:
    """The guest goes on as it was, on another host."""
    execute(
        "REPLACE INTO shapes SELECT ?, domain, vcpu, min_vcpu, max_vcpu, memory_mib, max_memory_mib" + _OF,
        (target, source, domain),
    )


def seen(execute: Execute, host: str, domain: str, disks_mib: tuple[int, ...]) -> ShapeSeen:
    """Raises NotFound."""
    row = execute("SELECT state, spec FROM domains WHERE host = ? AND name = ?", (host, domain)).fetchone()
    if row is None:
        raise NotFound(f"{host}: there is no domain {domain}.")
    state, spec = row
    if state in ON:
        live = execute("SELECT vcpu, min_vcpu, max_vcpu, memory_mib, max_memory_mib" + _OF, (host, domain))
        vcpu, min_vcpu, max_vcpu, memory_mib, max_memory_mib = live.fetchone()
        return ShapeSeen(True, vcpu, min_vcpu, max_vcpu, memory_mib, max_memory_mib, disks_mib)
    of = json.loads(spec)["size"]
    return ShapeSeen(
        False, of["vcpu"], of["vcpu"], of["max_vcpu"], of["memory_mib"], of["memory_mib"], disks_mib
    )


def plug(execute: Execute, host: str, domain: str, has: ShapeSeen, vcpu: int) -> None:
    if has.min_vcpu <= vcpu <= has.max_vcpu and (vcpu > has.vcpu or not _rigid(execute, domain)):
        execute("UPDATE shapes SET vcpu = ? WHERE host = ? AND domain = ?", (vcpu, host, domain))


def balloon(execute: Execute, host: str, domain: str, has: ShapeSeen, memory_mib: int) -> None:
    if memory_mib <= has.max_memory_mib and not _rigid(execute, domain):
        execute("UPDATE shapes SET memory_mib = ? WHERE host = ? AND domain = ?", (memory_mib, host, domain))


def _rigid(execute: Execute, domain: str) -> bool:
    return execute("SELECT 1 FROM rigid WHERE domain = ?", (domain,)).fetchone() is not None
