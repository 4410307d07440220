"""The table of states: what may become what, and that no state is a dead end."""

from __future__ import annotations

import pytest

from vdc.errors import InvalidState
from vdc.states import HOLDING, MOVES, SETTLED, Desired, VmState, check_move, check_terminable

ENDED = {VmState.FAILED, VmState.GONE}


def test_every_state_is_in_the_table() -> None:
    assert set(MOVES) == set(VmState)
    assert set(SETTLED) == set(Desired)


@pytest.mark.parametrize("state", VmState)
def test_every_machine_can_leave(state: VmState) -> None:
    """Issue trackers of others are full of machines in states that only a database editor can end."""
    reached, edge = {state}, {state}
    while edge:
        edge = set().union(*(MOVES[s] for s in edge)) - reached
        reached |= edge
    assert reached & ENDED


@pytest.mark.parametrize("state", VmState)
def test_what_ended_does_not_come_back(state: VmState) -> None:
    if state in ENDED:
        assert not MOVES[state] & set(HOLDING)
        assert state not in HOLDING
    else:
        assert state in HOLDING


@pytest.mark.parametrize("old", VmState)
@pytest.mark.parametrize("new", VmState)
def test_a_move_that_is_not_in_the_table_is_told(old: VmState, new: VmState) -> None:
    if new in MOVES[old]:
        check_move("web", old, new)
        return
    with pytest.raises(InvalidState, match=f"Machine web is {old.value}: it cannot become {new.value}"):
        check_move("web", old, new)


def test_only_what_is_gone_or_in_two_places_cannot_be_terminated() -> None:
    refused = {VmState.GONE: "gone already", VmState.MIGRATING: "vdc reconcile"}
    for state in VmState:
        if state in refused:
            with pytest.raises(InvalidState, match=refused[state]):
                check_terminable("web", state)
        else:
            check_terminable("web", state)
