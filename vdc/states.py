"""The states of a machine and the moves between them: one table, nothing else decides.

`desired` says what should be, `state` how far we are. A move that is not in the table is a defect of the
program (raised as InvalidState), not something to be repaired by hand.
"""

from __future__ import annotations

from enum import StrEnum

from vdc.errors import InvalidState


class Desired(StrEnum):
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"


class VmState(StrEnum):
    DEPLOYING = "deploying"
    """Claimed: host, addresses and disks are reserved; on the host it may be anything."""
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
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
    VmState.DEPLOYING: frozenset(
        {VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.FAILED, VmState.TERMINATING}
    ),
    VmState.RUNNING: frozenset(
        {VmState.PAUSED, VmState.STOPPED, VmState.MIGRATING, VmState.MISSING, VmState.TERMINATING}
    ),
    VmState.PAUSED: frozenset({VmState.RUNNING, VmState.STOPPED, VmState.MISSING, VmState.TERMINATING}),
    VmState.STOPPED: frozenset({VmState.RUNNING, VmState.PAUSED, VmState.MISSING, VmState.TERMINATING}),
    # Whatever happens on the way, it ends where the domain is; only then can it become something else.
    VmState.MIGRATING: frozenset({VmState.RUNNING}),
    VmState.MISSING: frozenset({VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.TERMINATING}),
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
    Desired.ABSENT: VmState.GONE,
}
"""The state in which a machine is what it should be."""


def check_move(name: str, old: VmState, new: VmState) -> None:
    """Raise InvalidState where the table does not allow machine `name` to go from `old` to `new`."""
    if new not in MOVES[old]:
        raise InvalidState(f"Machine {name} is {old.value}: it cannot become {new.value}.")


def check_terminable(name: str, state: VmState) -> None:
    """Raise InvalidState where a machine in `state` cannot be terminated."""
    if state is VmState.GONE:
        raise InvalidState(f"Machine {name} is gone already.")
    if state is VmState.MIGRATING:
        raise InvalidState(
            f"Machine {name} is migrating: wait for it; if its process died, `vdc reconcile` finishes it."
        )
