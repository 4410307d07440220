"""Snapshots in simulated disks: what a guest wrote last is kept with them, so that one sees it come back."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from drivers.simulated.datastore import ROOT
from vdc.model import SnapshotSeen, SnapshotSpec

Execute = Callable[[str, tuple[Any, ...]], sqlite3.Cursor]
Place = tuple[str, str, str]
"""Datastore, host (empty for a shared one) and name of a file."""


def place(execute: Execute, host: str, path: str) -> Place:
    """Where a file is that a host knows by its path."""
    datastore, file = path.removeprefix(f"{ROOT}/").split("/", 1)
    row = execute("SELECT shared FROM datastores WHERE name = ?", (datastore,)).fetchone()
    return datastore, "" if row[0] else host, file


def content(execute: Execute, disk: Place) -> str:
    sql = "SELECT content FROM disk_content WHERE datastore = ? AND host = ? AND file = ?"
    row = execute(sql, disk).fetchone()
    return row[0] if row else ""


def memory(execute: Execute, host: str, domain: str) -> str:
    sql = "SELECT content FROM memory_content WHERE host = ? AND domain = ?"
    row = execute(sql, (host, domain)).fetchone()
    return row[0] if row else ""


def seen(execute: Execute, disks: Sequence[Place]) -> list[SnapshotSeen]:
    """States in the disks, by id."""
    sql = "SELECT id, kind, size_mib FROM snapshots WHERE datastore = ? AND host = ? AND file = ?"
    found: dict[str, list[tuple[str, int]]] = {}
    for disk in disks:
        for snapshot_id, kind, size_mib in execute(sql, disk):
            found.setdefault(snapshot_id, []).append((kind, size_mib))
    return [
        SnapshotSeen(i, rows[0][0], sum(size for _, size in rows), len(rows) == len(disks))
        for i, rows in sorted(found.items())
    ]


def take(execute: Execute, disk: Place, snapshot: SnapshotSpec, kept_memory: str, size_mib: int) -> None:
    values = (snapshot.snapshot_id, snapshot.kind, size_mib, content(execute, disk), kept_memory)
    execute("REPLACE INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*disk, *values))


def go_back(execute: Execute, disk: Place, snapshot_id: str) -> str:
    """The disk is what it was; returns the memory that was kept with it."""
    sql = "SELECT disk, memory FROM snapshots WHERE datastore = ? AND host = ? AND file = ? AND id = ?"
    row = execute(sql, (*disk, snapshot_id)).fetchone()
    execute("REPLACE INTO disk_content VALUES (?, ?, ?, ?)", (*disk, row[0]))
    return str(row[1])


def remove(execute: Execute, disks: Iterable[Place], snapshot_id: str) -> bool:
    sql = "DELETE FROM snapshots WHERE datastore = ? AND host = ? AND file = ? AND id = ?"
    removed = [execute(sql, (*disk, snapshot_id)).rowcount for disk in disks]
    return any(removed)
