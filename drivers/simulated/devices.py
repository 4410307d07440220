"""What is plugged into simulated domains that run. A guest lets go at once, or never."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from drivers.simulated.power import ON
from vdc.errors import NotFound
from vdc.model import Attachment, DeviceAttachment, DevicesSeen

Execute = Callable[[str, tuple[Any, ...]], sqlite3.Cursor]

_OF = " FROM devices WHERE host = ? AND domain = ?"


def key(device: DeviceAttachment) -> str:
    """How it is known: a card by its MAC, a disk or a drive by its file."""
    return device.mac if isinstance(device, Attachment) else device.path


def boot(execute: Execute, host: str, domain: str, spec: dict[str, Any]) -> None:
    """The guest begins with what it is described with."""
    execute("DELETE" + _OF, (host, domain))
    for device in (*spec["files"], *(nic["mac"] for nic in spec["nics"])):
        plug(execute, host, domain, device)


def carry(execute: Execute, domain: str, source: str, target: str) -> None:
    """The guest goes on as it was, on another host."""
    execute("DELETE" + _OF, (target, domain))
    execute("INSERT INTO devices SELECT ?, domain, device" + _OF, (target, source, domain))


def seen(execute: Execute, host: str, domain: str) -> DevicesSeen:
    """Raises NotFound."""
    state, _ = _domain(execute, host, domain)
    if state not in ON:
        return described(execute, host, domain)
    return _told({device for (device,) in execute("SELECT device" + _OF, (host, domain))})


def described(execute: Execute, host: str, domain: str) -> DevicesSeen:
    """What it would be started with. Raises NotFound."""
    _, spec = _domain(execute, host, domain)
    return _told({*spec["files"], *(nic["mac"] for nic in spec["nics"])})


def _domain(execute: Execute, host: str, domain: str) -> tuple[str, dict[str, Any]]:
    row = execute("SELECT state, spec FROM domains WHERE host = ? AND name = ?", (host, domain)).fetchone()
    if row is None:
        raise NotFound(f"{host}: there is no domain {domain}.")
    return row[0], json.loads(row[1])


def _told(found: set[str]) -> DevicesSeen:
    files = {device for device in found if device.startswith("/")}
    return DevicesSeen(frozenset(files), frozenset(found - files))


def has(execute: Execute, host: str, domain: str, device: str) -> bool:
    return execute("SELECT 1" + _OF + " AND device = ?", (host, domain, device)).fetchone() is not None


def plug(execute: Execute, host: str, domain: str, device: str) -> None:
    execute("INSERT OR IGNORE INTO devices VALUES (?, ?, ?)", (host, domain, device))


def unplug(execute: Execute, host: str, domain: str, device: str) -> None:
    execute("DELETE" + _OF + " AND device = ?", (host, domain, device))
