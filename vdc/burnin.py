"""What a burn-in's users ask for, and how it must end: one table and pure functions, no host, no database.

A user sees the burn-in's machines and draws the next operation from TABLE, by weight, among those that fit
what is there. Most are legal. A row with a `case` is not: it must be refused. What is drawn depends on the
seed and on what the user saw, and both are in the log.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from random import Random
from statistics import quantiles
from typing import Any

from vdc import states
from vdc.states import VmState

Arguments = dict[str, Any]

GUEST_TIMEOUT_S = 5.0
"""What a guest has to stop or reboot before it is done hard: most have not booted so far that they hear."""

MOST_DISKS = MOST_CARDS = 3
"""More are not plugged in, though a machine takes more."""

FULL = ("NoCapacity", "QuotaExceeded")
"""Refusals that say how much others hold: a machine that migrates has its place on two hosts."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One of the burn-in's machines, as a user sees it before he asks for something."""

    name: str
    state: VmState
    host: str
    protected: bool = False
    snapshots: tuple[str, ...] = ()
    disks: tuple[str, ...] = ()
    """Those that can be detached."""
    cards: tuple[tuple[str, str], ...] = ()
    """Network and MAC of each: two networks may have the same addresses."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A disk of the burn-in that no machine has."""

    name: str
    host: str
    """Where it was attached last."""


@dataclass(frozen=True, slots=True)
class View:
    """All that a draw depends on, but for the user's own chance.

    `number` is that of the operation to be drawn; `making` how many deployments are under way whose machine
    may not be among `machines` yet.
    """

    seed: int
    number: int
    template: str
    tenant: str
    machines: tuple[Seen, ...]
    hosts: tuple[str, ...]
    making: int
    max_machines: int
    max_snapshots: int
    kept: tuple[Kept, ...] = ()

    @property
    def new_name(self) -> str:
        return f"{prefix(self.seed)}{self.number}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """An operation to be asked for; with a `case` it must be refused."""

    operation: str
    case: str
    arguments: Arguments

    @property
    def label(self) -> str:
        return f"{self.operation}, {self.case}" if self.case else self.operation


@dataclass(frozen=True, slots=True)
class Row:
    """An operation that may be drawn.

    `on` tells which machines it can be asked of; `alone` whether it can be asked where it is of none.
    `several`: it may be asked of two machines at once (`vms` in the arguments).
    """

    operation: str
    weight: int
    arguments: Callable[[Random, View, Seen], Arguments]
    on: Callable[[View, Seen], bool]
    case: str = ""
    several: bool = False


NOBODY = Seen("", VmState.GONE, "")
"""The machine of an operation that is asked of none."""


def prefix(seed: int) -> str:
    """Of the names of all machines and disks of a burn-in."""
    return f"burnin-{seed}-"


# -- which machines ----------------------------------------------------------------------------------------


def _alone(_view: View, seen: Seen) -> bool:
    return seen is NOBODY


def _any(_view: View, seen: Seen) -> bool:
    return seen is not NOBODY


def _room(view: View, seen: Seen) -> bool:
    return seen is NOBODY and len(view.machines) + view.making < view.max_machines


def _allowed(operation: str, _view: View, seen: Seen) -> bool:
    return seen is not NOBODY and seen.state in states.OPERATIONS[operation]


def _terminable(view: View, seen: Seen) -> bool:
    return _allowed("terminate", view, seen) and not seen.protected


def _movable(view: View, seen: Seen) -> bool:
    return len(view.hosts) > 1 and not seen.snapshots and _allowed("migrate", view, seen)


def _keepable(view: View, seen: Seen) -> bool:
    return len(seen.snapshots) < view.max_snapshots and _allowed("snapshot create", view, seen)


def _kept(operation: str, view: View, seen: Seen) -> bool:
    return bool(seen.snapshots) and _allowed(operation, view, seen)


def _in(states_: Iterable[VmState], _view: View, seen: Seen) -> bool:
    return seen is not NOBODY and seen.state in states_


def _protected(view: View, seen: Seen) -> bool:
    return seen.protected and _allowed("terminate", view, seen)


def _pluggable(operation: str, view: View, seen: Seen) -> bool:
    return not seen.snapshots and _allowed(operation, view, seen)


def _disk_room(view: View, seen: Seen) -> bool:
    return len(seen.disks) < MOST_DISKS and _pluggable("disk attach", view, seen)


def _kept_here(view: View, seen: Seen) -> bool:
    """Elsewhere a disk may be out of reach."""
    return any(disk.host == seen.host for disk in view.kept) and _disk_room(view, seen)


def _card_room(view: View, seen: Seen) -> bool:
    return 0 < len(seen.cards) < MOST_CARDS and _pluggable("nic attach", view, seen)


def _disk_out(view: View, seen: Seen) -> bool:
    """Off: most guests have not booted so far that they let go of anything."""
    return bool(seen.disks) and seen.state is VmState.STOPPED and _pluggable("disk detach", view, seen)


def _card_out(view: View, seen: Seen) -> bool:
    return len(seen.cards) > 1 and seen.state is VmState.STOPPED and _pluggable("nic detach", view, seen)


def _any_kept(view: View, seen: Seen) -> bool:
    return seen is NOBODY and bool(view.kept)


# -- with which arguments ----------------------------------------------------------------------------------


def _deploy(random: Random, view: View, _seen: Seen) -> Arguments:
    made = {"template": view.template, "tenant": view.tenant, "name": view.new_name}
    hold = random.random() < 0.15
    return made | {"start": random.choice(("running", "running", "paused", "stopped")), "hold": hold}


def _vms(_random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vms": [seen.name]}


def _power(verb: str, random: Random, view: View, seen: Seen, *, hard: bool = False) -> Arguments:
    asked = _vms(random, view, seen) | {"verb": verb}
    return asked | ({"hard": hard, "timeout_s": GUEST_TIMEOUT_S} if verb in ("stop", "reboot") else {})


def _vm(_random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name}


def _migrate(random: Random, view: View, seen: Seen) -> Arguments:
    others = [host for host in view.hosts if host != seen.host]
    return {"vm": seen.name, "to": random.choice(["", *others])}


def _stay(_random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "to": seen.host}


def _snapshot(random: Random, view: View, seen: Seen) -> Arguments:
    kinds = ("memory", "disk") if seen.state is VmState.RUNNING else ("disk",)
    return {"vm": seen.name, "label": f"s{view.number}", "kind": random.choice(kinds)}


def _label(random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "label": random.choice(seen.snapshots)}


def _fixed(more: Mapping[str, Any], random: Random, view: View, seen: Seen) -> Arguments:
    """The machine, if there is one, and what is wrong."""
    return ({} if seen is NOBODY else _vm(random, view, seen)) | dict(more)


def _rename(_random: Random, view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "new": view.new_name}


def _new_disk(random: Random, view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "size_mib": random.randint(1, 16), "name": view.new_name}


def _kept_disk(random: Random, view: View, seen: Seen) -> Arguments:
    here = [disk.name for disk in view.kept if disk.host == seen.host]
    return {"vm": seen.name, "volume": random.choice(here)}


def _disk_of(keep: bool, random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "disk": random.choice(seen.disks), "keep": keep}


def _new_card(random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "vnet": random.choice(sorted({vnet for vnet, _ in seen.cards}))}


def _card_of(random: Random, _view: View, seen: Seen) -> Arguments:
    return {"vm": seen.name, "nic": random.choice(seen.cards)[1]}


def _any_disk(random: Random, view: View, _seen: Seen) -> Arguments:
    return {"disk": random.choice(view.kept).name}


def _bad_deploy(more: Mapping[str, Any], random: Random, view: View, seen: Seen) -> Arguments:
    return _deploy(random, view, seen) | {"hold": False} | dict(more)


def _power_row(operation: str, weight: int) -> Row:
    verb, _, hard = operation.partition(" --")
    arguments = partial(_power, verb, hard=bool(hard))
    return Row(operation, weight, arguments, partial(_allowed, operation), several=True)


def _wrong_state(verb: str, *wrong: VmState) -> Row:
    return Row(verb, 1, partial(_power, verb), partial(_in, wrong), case="wrong state")


TABLE: tuple[Row, ...] = (
    Row("deploy", 40, _deploy, _room),
    Row("terminate", 5, _vms, _terminable, several=True),
    _power_row("start", 14),
    _power_row("stop", 4),
    _power_row("stop --hard", 6),
    _power_row("reboot", 3),
    _power_row("reset", 4),
    _power_row("pause", 6),
    _power_row("resume", 12),
    _power_row("suspend", 5),
    Row("migrate", 8, _migrate, _movable),
    Row("snapshot create", 8, _snapshot, _keepable),
    Row("snapshot revert", 5, _label, partial(_kept, "snapshot revert")),
    Row("snapshot delete", 7, _label, partial(_kept, "snapshot delete")),
    Row("disk attach", 8, _new_disk, _disk_room),
    Row("disk attach --volume", 8, _kept_disk, _kept_here),
    Row("disk detach", 4, partial(_disk_of, False), _disk_out),
    Row("disk detach --keep", 8, partial(_disk_of, True), _disk_out),
    Row("disk remove", 3, _any_disk, _any_kept),
    Row("nic attach", 5, _new_card, _card_room),
    Row("nic detach", 6, _card_of, _card_out),
    Row("hold", 4, _vms, partial(_allowed, "hold")),
    Row("release", 10, _vms, partial(_allowed, "release")),
    Row("rename", 3, _rename, partial(_allowed, "rename")),
    Row("protect", 2, _vms, partial(_allowed, "protect")),
    Row("unprotect", 3, _vms, partial(_allowed, "unprotect")),
    # What must be refused.
    _wrong_state("start", VmState.RUNNING, VmState.PAUSED, VmState.HELD),
    _wrong_state("stop", VmState.STOPPED, VmState.PAUSED, VmState.SUSPENDED, VmState.HELD),
    _wrong_state("pause", VmState.STOPPED, VmState.SUSPENDED, VmState.HELD),
    _wrong_state("resume", VmState.RUNNING, VmState.STOPPED, VmState.HELD),
    _wrong_state("suspend", VmState.STOPPED, VmState.HELD),
    Row("release", 1, _vms, partial(_in, (VmState.RUNNING, VmState.STOPPED)), case="not on hold"),
    Row("terminate", 2, _vms, _protected, case="protected"),
    Row("terminate", 1, partial(_fixed, {"vms": ["burnin-nobody"]}), _alone, case="no such machine"),
    Row("migrate", 1, _stay, partial(_allowed, "migrate"), case="to where it is"),
    Row("migrate", 1, _migrate, partial(_kept, "migrate"), case="with snapshots"),
    Row(
        "snapshot revert",
        1,
        partial(_fixed, {"label": "nosuch"}),
        partial(_allowed, "snapshot revert"),
        case="no such snapshot",
    ),
    Row(
        "disk attach",
        1,
        _new_disk,
        partial(_in, (VmState.PAUSED, VmState.SUSPENDED, VmState.HELD)),
        case="wrong state",
    ),
    Row("disk attach", 1, _new_disk, partial(_kept, "disk attach"), case="with snapshots"),
    Row(
        "disk detach",
        1,
        partial(_fixed, {"disk": "root"}),
        partial(_allowed, "disk detach"),
        case="its first disk",
    ),
    Row("nic attach", 1, partial(_fixed, {"vnet": "nosuch"}), _any, case="no such network"),
    Row("rename", 1, partial(_fixed, {"new": "No_Name"}), _any, case="bad name"),
    Row("deploy", 1, partial(_bad_deploy, {"count": 0}), _alone, case="none"),
    Row("deploy", 1, partial(_bad_deploy, {"template": "nosuch"}), _alone, case="no such template"),
    Row("deploy", 1, partial(_bad_deploy, {"memory_mib": 1}), _alone, case="no memory"),
)
"""What may be drawn; a new operation is a row here and one in deployments/burnin/acting.py."""


def draw(random: Random, view: View) -> Drawn:
    """The next operation of a user who sees `view`."""
    fitting = [
        (row, found)
        for row in TABLE
        if (found := [seen for seen in (*view.machines, NOBODY) if row.on(view, seen)])
    ]
    row, found = random.choices(fitting, [row.weight for row, _ in fitting])[0]
    seen = random.choice(found)
    arguments = row.arguments(random, view, seen)
    if row.several and random.random() < 0.2:
        others = [other.name for other in found if other is not seen]
        arguments["vms"] += random.sample(others, min(1, len(others)))
    return Drawn(row.operation, row.case, arguments)


# -- the log -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation as it went. Instants are seconds since the burn-in began.

    `outcome`: `done`, `conflict` (another operation held the machine), `refused`, or `failed`; empty where
    it did not end. `kind` is the error's class.
    """

    number: int
    user: int
    operation: str
    case: str
    arguments: Arguments
    begun_s: float
    ended_s: float = 0.0
    outcome: str = ""
    kind: str = ""
    error: str = ""

    @property
    def drawn(self) -> Drawn:
        return Drawn(self.operation, self.case, self.arguments)

    @property
    def seconds(self) -> float:
        return self.ended_s - self.begun_s

    @property
    def machines(self) -> frozenset[str]:
        """Names of the machines, and of disks of their own, that it is about."""
        told = (self.arguments.get(key, ()) for key in ("vm", "name", "new", "disk", "volume"))
        return frozenset([*self.arguments.get("vms", ()), *(name for name in told if name)])


def line_of(entry: Entry, view: View | None = None) -> str:
    """A line of the log: with the view when it begins, with its outcome when it ended."""
    told = asdict(entry)
    if view is not None:
        told = {k: v for k, v in told.items() if k not in ("ended_s", "outcome", "kind", "error")}
        told["saw"] = {"machines": [asdict(seen) for seen in view.machines], "making": view.making}
    else:
        told["seconds"] = round(entry.seconds, 3)
    return json.dumps(told)


def entries_of(lines: Iterable[str]) -> list[Entry]:
    """Operations of a log in the order in which they began. Raises ValueError for what is no log."""
    found: dict[int, Entry] = {}
    for line in lines:
        told = json.loads(line)
        if "number" in told:
            found[told["number"]] = Entry(**{k: v for k, v in told.items() if k not in ("saw", "seconds")})
    return [found[number] for number in sorted(found)]


OUTCOMES = ("done", "conflict", "refused", "failed")


# -- what came of it ---------------------------------------------------------------------------------------


def judge(entries: Sequence[Entry]) -> list[str]:
    """Operations that ended otherwise than they may.

    A legal one is done, or refused because others changed its machine since it was looked at; an illegal one
    is refused, unless others made it legal. Nothing ever fails.
    """
    problems = []
    for entry in entries:
        what = f"operation {entry.number}, {entry.drawn.label} {' '.join(sorted(entry.machines))}".rstrip()
        if entry.outcome == "failed":
            problems.append(f"{what} failed: {entry.kind}: {entry.error}")
        elif not entry.outcome:
            problems.append(f"{what} did not end")
        elif entry.case and entry.outcome == "done" and not _disturbed(entry, entries):
            problems.append(f"{what} was done and must be refused")
        elif (
            not entry.case
            and entry.outcome == "refused"
            and entry.kind not in FULL
            and not _disturbed(entry, entries)
        ):
            problems.append(f"{what} was refused without a reason: {entry.kind}: {entry.error}")
    return problems


def _disturbed(entry: Entry, entries: Sequence[Entry]) -> bool:
    """Whether another user did something to its machines between its look at them and its end."""
    return any(
        other.user != entry.user
        and other.machines & entry.machines
        and other.begun_s <= entry.ended_s
        and (not other.outcome or other.ended_s >= entry.begun_s)
        for other in entries
    )


@dataclass
class Tally:
    """How one kind of operation went."""

    operation: str
    case: str
    seconds: list[float] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))


def tally(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """A row for each operation of the table that was asked for, with counts and the seconds that it took.

    p50 and p95 are of those that were done; of what must be refused, of those that were refused.
    """
    tallies: dict[str, Tally] = {}
    for row in TABLE:
        drawn = Drawn(row.operation, row.case, {})
        tallies.setdefault(drawn.label, Tally(row.operation, row.case))
    for entry in entries:
        of = tallies.setdefault(entry.drawn.label, Tally(entry.operation, entry.case))
        if not entry.outcome:
            continue
        of.outcomes[entry.outcome] += 1
        if entry.outcome == ("refused" if entry.case else "done"):
            of.seconds.append(entry.seconds)
    return [
        {"operation": of.operation, "must_be_refused": of.case, "asked": sum(of.outcomes.values())}
        | of.outcomes
        | {"p50_s": _quantile(of.seconds, 50), "p95_s": _quantile(of.seconds, 95)}
        for of in tallies.values()
        if any(of.outcomes.values())
    ]


def _quantile(values: Sequence[float], percent: int) -> float | None:
    if len(values) < 2:
        return round(values[0], 2) if values else None
    return round(quantiles(values, n=100, method="inclusive")[percent - 1], 2)
