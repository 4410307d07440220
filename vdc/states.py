"""The states of a machine and the moves between them: one table, nothing else decides.

`desired` says what should be, `state` how far we are. A move that is not in the table is a defect of the
program (raised as InvalidState), not something to be repaired by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from vdc.errors import InvalidState


class Desired(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    ABSENT = "absent"


class VmState(StrEnum):
    HELD = "held"
    """On hold: it has its place, and nothing starts it until it is released. One that was never made has
    nothing on its host; one that was stopped before has its disk there."""
    DEPLOYING = "deploying"
    """Claimed: host, addresses and disks are reserved; on the host it may be anything."""
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    """Off, its memory kept in a file of its host: it goes on from there. It keeps its place."""
    MIGRATING = "migrating"
    """On its way to another host; it holds its place on both. Without an open operation: one of them could
    not be reached; reconcile goes on."""
    MISSING = "missing"
    """Its host answers and does not have it."""
    TERMINATING = "terminating"
    """On its way out. Without an open operation: its host could not be reached; reconcile goes on."""
    FAILED = "failed"
    """The deployment failed and was taken back: nothing is left on any host."""
    GONE = "gone"
    """Terminated; the row stays for the bill."""


MOVES: dict[VmState, frozenset[VmState]] = {
    VmState.HELD: frozenset({VmState.DEPLOYING, VmState.STOPPED, VmState.TERMINATING}),
    VmState.DEPLOYING: frozenset(
        {VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.FAILED, VmState.TERMINATING}
    ),
    VmState.RUNNING: frozenset(
        {
            VmState.PAUSED,
            VmState.STOPPED,
            VmState.SUSPENDED,
            VmState.MIGRATING,
            VmState.MISSING,
            VmState.TERMINATING,
        }
    ),
    VmState.PAUSED: frozenset(
        {VmState.RUNNING, VmState.STOPPED, VmState.SUSPENDED, VmState.MISSING, VmState.TERMINATING}
    ),
    VmState.STOPPED: frozenset(
        {
            VmState.RUNNING,
            VmState.PAUSED,
            VmState.SUSPENDED,
            VmState.HELD,
            VmState.MIGRATING,
            VmState.MISSING,
            VmState.TERMINATING,
        }
    ),
    VmState.SUSPENDED: frozenset(
        {VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.MISSING, VmState.TERMINATING}
    ),
    # Whatever happens on the way, it ends where the domain is; only then can it become something else.
    VmState.MIGRATING: frozenset({VmState.RUNNING, VmState.STOPPED}),
    VmState.MISSING: frozenset(
        {VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.SUSPENDED, VmState.TERMINATING}
    ),
    VmState.TERMINATING: frozenset({VmState.GONE, VmState.FAILED}),
    VmState.FAILED: frozenset({VmState.GONE}),
    VmState.GONE: frozenset(),
}

HOLDING = tuple(s for s in VmState if s not in (VmState.FAILED, VmState.GONE))
"""States in which a machine holds its place: capacity, quota, name, addresses, disks."""

SETTLED = {
    Desired.RUNNING: VmState.RUNNING,
    Desired.PAUSED: VmState.PAUSED,
    Desired.STOPPED: VmState.STOPPED,
    Desired.SUSPENDED: VmState.SUSPENDED,
    Desired.ABSENT: VmState.GONE,
}
"""The state in which a machine is what it should be."""


_LIVE = frozenset(HOLDING) - {VmState.TERMINATING}

OPERATIONS: Mapping[str, frozenset[VmState]] = {
    "start": frozenset({VmState.STOPPED, VmState.SUSPENDED}),
    "stop": frozenset({VmState.RUNNING}),
    "stop --hard": frozenset({VmState.RUNNING, VmState.PAUSED, VmState.SUSPENDED}),
    "reboot": frozenset({VmState.RUNNING}),
    "reset": frozenset({VmState.RUNNING}),
    "pause": frozenset({VmState.RUNNING}),
    "resume": frozenset({VmState.PAUSED, VmState.SUSPENDED}),
    "suspend": frozenset({VmState.RUNNING, VmState.PAUSED}),
    "hold": frozenset({VmState.STOPPED, VmState.HELD}),
    "release": frozenset({VmState.HELD}),
    "console": frozenset({VmState.RUNNING}),
    "vnc": frozenset({VmState.RUNNING, VmState.PAUSED}),
    "resize": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "disk attach": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "disk detach": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "nic attach": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "nic detach": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "sg assign": _LIVE - {VmState.DEPLOYING, VmState.MIGRATING},
    "migrate": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "snapshot create": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "snapshot revert": frozenset({VmState.RUNNING, VmState.PAUSED, VmState.STOPPED}),
    "snapshot delete": frozenset({VmState.RUNNING, VmState.PAUSED, VmState.STOPPED}),
    "snapshot keep": _LIVE,
    "save-as": frozenset({VmState.RUNNING, VmState.STOPPED}),
    "redeploy": frozenset({VmState.RUNNING}),
    "rename": _LIVE,
    "give": _LIVE - {VmState.DEPLOYING, VmState.MIGRATING},
    "protect": _LIVE,
    "unprotect": _LIVE,
    "terminate": frozenset(VmState) - {VmState.MIGRATING, VmState.GONE},
}
"""What may be asked of a machine in which states (docs/states.md is made of it)."""

CHARGED = frozenset({VmState.RUNNING, VmState.PAUSED})
"""States in which a machine pays for vCPU and memory; the disk is paid for as long as there is one.

One that migrates pays as before: it ends as what it was.
"""


def usage_kind(old: VmState, new: VmState) -> str:
    """The usage event of a machine that went from `old` to `new`; empty where the bill does not change."""
    if old is VmState.SUSPENDED and new is VmState.STOPPED:
        return "stopped"  # its memory is gone: it pays what a tariff asks of one that is off
    if (old in CHARGED) == (new in CHARGED):
        return ""
    if new in CHARGED:
        return "resumed" if old is VmState.SUSPENDED else "started"
    return "suspended" if new is VmState.SUSPENDED else "stopped"


def check_allowed(operation: str, name: str, state: VmState) -> None:
    """Raise InvalidState where machine `name`, which is in `state`, cannot be told to do `operation`."""
    allowed = OPERATIONS[operation]
    if state not in allowed:
        wanted = " or ".join(s.value for s in VmState if s in allowed)
        raise InvalidState(
            f"Machine {name} is {state.value}: `{operation}` is for a machine that is {wanted}."
            + (f" `vdc vm release {name}` first." if state is VmState.HELD else "")
        )


def check_move(name: str, old: VmState, new: VmState) -> None:
    """Raise InvalidState where the table does not allow machine `name` to go from `old` to `new`."""
    if new not in MOVES[old]:
        raise InvalidState(f"Machine {name} is {old.value}: it cannot become {new.value}.")


def check_terminable(name: str, state: VmState) -> None:
    """Raise InvalidState where a machine in `state` cannot be terminated."""
    if state in OPERATIONS["terminate"]:
        return
    if state is VmState.GONE:
        raise InvalidState(f"Machine {name} is gone already.")
    raise InvalidState(
        f"Machine {name} is {state.value}: wait for it; if its process died, `vdc reconcile` finishes it."
    )
