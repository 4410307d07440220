"""The table of states: what may become what, and that no state is a dead end."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdc import states_page
from vdc.errors import InvalidState
from vdc.requests import Verb
from vdc.states import (
    CHARGED,
    HOLDING,
    MOVES,
    OPERATIONS,
    SETTLED,
    Desired,
    VmState,
    check_allowed,
    check_move,
    check_terminable,
    usage_kind,
)

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


def test_the_page_says_what_the_tables_say() -> None:
    """Else: python -m vdc.states_page > docs/states.md"""
    assert (Path(__file__).parents[2] / "docs" / "states.md").read_text() == states_page.page()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("state", VmState)
def test_what_is_not_in_the_table_is_refused_with_what_would_do(operation: str, state: VmState) -> None:
    if state in OPERATIONS[operation]:
        check_allowed(operation, "web", state)
        return
    with pytest.raises(InvalidState, match=rf"Machine web is {state.value}: `{operation}` is for") as refused:
        check_allowed(operation, "web", state)
    assert all(s.value in str(refused.value) for s in OPERATIONS[operation])


def test_every_verb_leads_where_the_moves_allow() -> None:
    from typing import get_args

    from vdc.claims.power import BECOMES

    assert set(BECOMES) == set(get_args(Verb))
    for verb, desired in BECOMES.items():
        for name in {verb, "stop --hard"} if verb == "stop" else {verb}:
            for state in OPERATIONS[name]:
                assert SETTLED[desired] in MOVES[state] | {state}, (name, state)


def test_snapshots_are_made_and_gone_back_to_in_the_states_that_the_table_says() -> None:
    from vdc.claims import snapshot

    assert {s for states in snapshot._MADE_OF.values() for s in states} == OPERATIONS["snapshot create"]
    assert set(snapshot.AT_REST) == OPERATIONS["snapshot revert"] == OPERATIONS["snapshot delete"]


@pytest.mark.parametrize("old", HOLDING)
@pytest.mark.parametrize("new", HOLDING)
def test_the_bill_changes_where_the_charge_does(old: VmState, new: VmState) -> None:
    kind = usage_kind(old, new)
    thrown_away = old is VmState.SUSPENDED and new is VmState.STOPPED
    assert bool(kind) == ((old in CHARGED) != (new in CHARGED) or thrown_away)
    assert (kind in ("started", "resumed")) == (new in CHARGED and old not in CHARGED)
    assert (kind == "resumed") == (new in CHARGED and old is VmState.SUSPENDED)
