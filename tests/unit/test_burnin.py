"""What a burn-in draws, writes down, and says of how it went."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from vdc import states
from vdc.burnin import (
    NOBODY,
    TABLE,
    Drawn,
    Entry,
    Kept,
    Seen,
    View,
    draw,
    entries_of,
    judge,
    line_of,
    tally,
)
from vdc.states import VmState
from vdc.verification import Check, merged

AT_REST = (VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.SUSPENDED, VmState.HELD)


def _view(*machines: Seen, number: int = 9, making: int = 0) -> View:
    return View(
        seed=7,
        number=number,
        template="tiny",
        tenant="default",
        machines=machines,
        hosts=("h1", "h2"),
        making=making,
        max_machines=6,
        max_snapshots=3,
        kept=(Kept("k1", "h1"), Kept("k2", "h2")),
    )


def _every_kind() -> list[Seen]:
    kinds = itertools.product(states.HOLDING, (False, True), ((), ("s1",), ("s1", "s2", "s3")))
    seen = [Seen(f"m{n}", state, "h1", safe, kept) for n, (state, safe, kept) in enumerate(kinds)]
    cards = (("blue", "02:00:0a:01:00:02"), ("green", "02:01:0a:01:00:02"), ("blue", "02:02:0a:01:00:03"))
    plugged = itertools.product(states.HOLDING, (((), cards[:2]), (("d1", "d2", "d3"), cards)))
    return seen + [
        Seen(f"p{n}", state, "h2", disks=disks, cards=has) for n, (state, (disks, has)) in enumerate(plugged)
    ]


def test_the_same_seed_and_the_same_view_draw_the_same() -> None:
    view = _view(*_every_kind())
    first, second = ([draw(Random(f"7/{user}"), view) for user in range(200)] for _ in range(2))
    assert first == second
    assert len({drawn.label for drawn in first}) > 20


def test_what_is_drawn_may_be_asked_of_the_machine_that_is_named() -> None:
    seen = {one.name: one for one in _every_kind()}
    view = _view(*seen.values())
    chance = Random(1)
    drawn_often = Counter[str]()
    for _ in range(1500):
        drawn = draw(chance, view)
        drawn_often[drawn.label] += 1
        of = [*drawn.arguments.get("vms", ()), *filter(None, [drawn.arguments.get("vm")])]
        if drawn.case or drawn.operation == "deploy":
            continue
        assert of or drawn.arguments == {"disk": drawn.arguments.get("disk")}
        operation = drawn.operation
        for name in of:
            machine = seen[name]
            assert machine.state in states.OPERATIONS.get(
                operation, states.OPERATIONS[operation.partition(" --")[0]]
            )
            if operation.startswith(("disk", "nic")):
                assert not machine.snapshots
                assert "attach" in operation or machine.state is VmState.STOPPED
                assert len(machine.disks) < 3 or operation != "disk attach"
                assert drawn.arguments.get("volume", "") in ("", "k1" if machine.host == "h1" else "k2")
                assert drawn.arguments.get("vnet", "blue") in ("blue", "green")
            if drawn.operation == "terminate":
                assert not machine.protected
            if drawn.operation == "migrate":
                assert not machine.snapshots
                assert drawn.arguments["to"] in ("", "h2" if machine.host == "h1" else "h1")
            if drawn.operation == "snapshot create":
                assert len(machine.snapshots) < 3
                assert drawn.arguments["kind"] == "disk" or machine.state is VmState.RUNNING
            if drawn.operation in ("snapshot revert", "snapshot delete"):
                assert drawn.arguments["label"] in machine.snapshots
    labels = {f"{row.operation}, {row.case}" if row.case else row.operation for row in TABLE}
    assert set(drawn_often) == labels - {"deploy"}, "there was no room, and everything else was drawn"


@pytest.mark.parametrize(
    ("machines", "making", "room"), [(0, 0, True), (5, 0, True), (5, 1, False), (6, 0, False)]
)
def test_there_are_never_more_machines_than_wanted(machines: int, making: int, room: bool) -> None:
    view = _view(*(Seen(f"m{n}", VmState.RUNNING, "h1") for n in range(machines)), making=making)
    chance = Random(2)
    legal = {drawn.operation for drawn in (draw(chance, view) for _ in range(500)) if not drawn.case}
    assert ("deploy" in legal) == room


def test_what_must_be_refused_is_what_the_table_of_states_does_not_allow() -> None:
    for row in (row for row in TABLE if row.case == "wrong state"):
        for state in AT_REST:
            if row.on(_view(), Seen("m", state, "h1")):
                assert state not in states.OPERATIONS[row.operation], (row.operation, state)


def test_a_legal_row_is_never_about_nobody_but_to_deploy_or_to_remove_a_kept_disk() -> None:
    alone = [row.operation for row in TABLE if not row.case and row.on(_view(), NOBODY)]
    assert alone == ["deploy", "disk remove"]


def _entry(number: int, user: int, begun_s: float, ended_s: float, outcome: str, **more: object) -> Entry:
    entry = Entry(number, user, "pause", "", {"vms": ["m1"]}, begun_s, ended_s, outcome)
    return replace(entry, **more)  # type: ignore[arg-type]


ALONE = _entry(1, 1, 0.0, 1.0, "done")
REFUSED = _entry(2, 1, 2.0, 3.0, "refused", kind="InvalidState", error="it is stopped")


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ([ALONE], ""),
        ([_entry(1, 1, 0, 1, "conflict")], ""),
        ([_entry(1, 1, 0, 1, "failed", kind="OperationFailed", error="no")], "failed: OperationFailed: no"),
        ([_entry(1, 1, 0, 0, "")], "did not end"),
        ([ALONE, REFUSED], "refused without a reason: InvalidState: it is stopped"),
        ([replace(REFUSED, kind="NoCapacity")], ""),
        # Another user's operation on the machine, at the same time, is a reason; before or elsewhere is none.
        ([_entry(1, 2, 1.0, 2.5, "done"), REFUSED], ""),
        ([_entry(1, 2, 1.0, 0.0, ""), REFUSED], "operation 1, pause m1 did not end"),
        ([_entry(1, 2, 1.0, 1.5, "done"), REFUSED], "refused without a reason"),
        ([_entry(1, 2, 1.0, 2.5, "done", arguments={"vms": ["m2"]}), REFUSED], "refused without a reason"),
        (
            [
                _entry(1, 2, 1.0, 2.5, "done", operation="rename", arguments={"vm": "m2", "new": "m1"}),
                REFUSED,
            ],
            "",
        ),
        ([_entry(1, 1, 0, 1, "refused", case="wrong state")], ""),
        ([_entry(1, 1, 0, 1, "done", case="wrong state")], "was done and must be refused"),
        ([_entry(1, 1, 0, 1, "done", case="wrong state"), _entry(2, 2, 0.5, 2, "done")], ""),
    ],
)
def test_how_an_operation_may_end(entries: list[Entry], wrong: str) -> None:
    problems = judge(entries)
    assert len(problems) == bool(wrong)
    assert all(wrong in problem for problem in problems)


def test_the_log_tells_what_was_drawn_and_from_what_and_how_it_ended() -> None:
    view = _view(Seen("m1", VmState.RUNNING, "h1", snapshots=("s1",)), number=1)
    drawn = draw(Random(3), view)
    begun = Entry(1, 2, drawn.operation, drawn.case, drawn.arguments, 0.5)
    open_one = replace(begun, number=2)
    ended = replace(begun, ended_s=2.5, outcome="refused", kind="Conflict", error="m1 is busy")
    lines = [line_of(begun, view), line_of(open_one, view), line_of(ended)]
    assert entries_of(lines) == [ended, open_one]
    assert '"saw": {"machines": [{"name": "m1", "state": "running"' in lines[0]
    assert '"seconds": 2.0' in lines[2]


def test_counts_and_times_of_each_operation() -> None:
    entries = [_entry(n, 1, 0, n, "done") for n in range(1, 11)]
    entries += [REFUSED, _entry(12, 1, 0, 9, "refused", case="wrong state")]
    pauses, wrong = tally(entries)
    assert (pauses["operation"], pauses["asked"], pauses["done"], pauses["refused"]) == ("pause", 11, 10, 1)
    assert (pauses["p50_s"], pauses["p95_s"]) == (5.5, 9.55)
    assert (wrong["must_be_refused"], wrong["refused"], wrong["p50_s"]) == ("wrong state", 1, 9)


def test_what_was_wrong_before_is_not_counted_and_what_stays_wrong_is_told_once() -> None:
    before = [Check("hosts", ("old",))]
    stages = [
        ("left", [Check("hosts", ("old", "new")), Check("disks")]),
        ("removed", [Check("hosts", ("new", "late"))]),
    ]
    assert merged(stages, before) == [Check("hosts", ("new (left)", "late (removed)")), Check("disks")]


def test_a_drawn_operation_has_a_label() -> None:
    assert Drawn("deploy", "", {}).label == "deploy"
    assert Drawn("deploy", "none", {}).label == "deploy, none"
