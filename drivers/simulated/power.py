"""Switching simulated domains off and on. A guest reacts to the power button at once, or not at all."""

from __future__ import annotations

import time

from drivers.simulated.store import Call
from vdc.errors import NotFound

ON = ("running", "paused")


def state_of(call: Call, host: str, name: str) -> str:
    """Raises NotFound."""
    row = call.one("SELECT state FROM domains WHERE host = ? AND name = ?", (host, name))
    if row is None:
        raise NotFound(f"{host}: there is no domain {name}.")
    return str(row[0])


def hears(call: Call, host: str, name: str, timeout_s: float) -> bool:
    """Press the button: False, after the time-out, where the guest does not listen."""
    if state_of(call, host, name) != "running":
        return False
    if call.one("SELECT 1 FROM deaf WHERE domain = ?", (name,)):
        with call.outside():
            time.sleep(timeout_s)
        return False
    return True


def off(call: Call, host: str, name: str, state: str = "stopped") -> bool:
    """The domain's process ends; its ports stay."""
    before = state_of(call, host, name)
    call.execute("UPDATE domains SET state = ? WHERE host = ? AND name = ?", (state, host, name))
    return before != state


def boot(call: Call, name: str) -> None:
    """The guest begins anew."""
    call.execute("INSERT INTO boots VALUES (?, 1) ON CONFLICT (domain) DO UPDATE SET n = n + 1", (name,))


def must_run(call: Call, host: str, name: str, what: str) -> None:
    if state_of(call, host, name) not in ON:
        raise call.failure(f"domain {name} does not run there: it cannot be {what}")
