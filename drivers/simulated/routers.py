"""Simulated routers: what their seeds say of them, and when they have read it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from drivers import router
from drivers.simulated.store import Call
from vdc.errors import DriverFailure

_SAID = re.compile(router.DIGEST.encode() + rb"[0-9a-f]{16}")


def keep(call: Call, datastore: str, host: str, file: str, content: bytes) -> None:
    """A seed was written."""
    found = _SAID.search(content)
    if found:
        call.execute(
            "INSERT INTO router_seeds VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET said = excluded.said",
            (datastore, host, file, found[0].decode()),
        )


def _seed(call: Call, host: str, seed_path: str) -> str:
    _, _, datastore, file = seed_path.split("/")
    row = call.one(
        "SELECT said FROM router_seeds WHERE datastore = ? AND file = ? AND host IN (?, '')",
        (datastore, file, host),
    )
    return str(row[0]) if row else ""


def boot(call: Call, host: str, name: str, seed_path: str) -> None:
    """A guest begins, and reads its seed."""
    call.execute("DELETE FROM routers WHERE domain = ?", (name,))
    if said := _seed(call, host, seed_path):
        call.execute("INSERT INTO routers VALUES (?, ?)", (name, said))


def run(call: Call, host: str, name: str, command: Sequence[str], seed_path: str) -> str:
    """What a program in the guest prints. There is no other than a router's."""
    if tuple(command) == router.APPLY:
        boot(call, host, name, seed_path)
    row = call.one("SELECT said FROM routers WHERE domain = ?", (name,))
    if tuple(command) not in (router.APPLY, router.READ) or row is None:
        raise DriverFailure(
            f"{host}: {' '.join(command)} in the guest of {name} failed: no such file.", host=host
        )
    return f"{row[0]}\n"
