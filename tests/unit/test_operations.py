"""The lock and journal of whatever is done: one at a time, taken over only where that is right."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from tests.flows.site import new_inventory
from vdc import operations
from vdc.errors import Conflict, Superseded
from vdc.inventory import read_session, write_session
from vdc.operations import Claim, Fence, Opening, owner, takeable
from vdc.schema import Operation, utc_now

WEB = Opening("deploy", "vm", "id-1", "web", {})


@pytest.fixture
def url(tmp_path: Path) -> str:
    return new_inventory(f"sqlite:///{tmp_path / 'inventory.db'}")


def _open(url: str, opening: Opening = WEB) -> Claim:
    with write_session(url) as session:
        return operations.open_one(session, opening, actor="ada")


def _row(url: str, claim: Claim) -> Operation:
    with read_session(url) as session:
        return session.get_one(Operation, claim.operation_id)


def _take_over(url: str, claim: Claim) -> Claim:
    with write_session(url) as session:
        return operations.take_over(session, session.get_one(Operation, claim.operation_id))


def _dead_owner() -> str:
    boot, namespace, _, _ = owner().split("/")
    return f"{boot}/{namespace}/4194305/1"  # above the largest pid there can be


def _set(url: str, claim: Claim, **values: object) -> None:
    with write_session(url) as session:
        for name, value in values.items():
            setattr(session.get_one(Operation, claim.operation_id), name, value)


def test_one_open_operation_per_object(url: str) -> None:
    claim = _open(url)
    with pytest.raises(Conflict, match=r"vm/web is busy: deploy by ada since ..:..:.. UTC \(operation .*\)"):
        _open(url)
    _open(url, Opening("import", "image", "id-1", "web", {}))  # another kind of object
    with write_session(url) as session:
        operations.close(session, claim)
    _open(url)


def test_all_or_none_of_a_batch_is_opened(url: str) -> None:
    _open(url)
    other = Opening("deploy", "vm", "id-2", "other", {})
    with pytest.raises(Conflict), write_session(url) as session:
        operations.open_many(session, [other, WEB], actor="bob")
    with read_session(url) as session:
        assert session.scalars(select(Operation.object)).all() == ["vm/web"]


def test_the_outcome_and_its_reason_are_kept(url: str) -> None:
    good, bad = _open(url), _open(url, Opening("deploy", "vm", "id-2", "other", {}))
    with write_session(url) as session:
        operations.close(session, good)
        operations.close(session, bad, error="no disk")
    assert (_row(url, good).outcome, _row(url, good).error) == ("done", None)
    assert (_row(url, bad).outcome, _row(url, bad).error) == ("failed", "no disk")
    assert _row(url, bad).open_key is None


def test_who_was_taken_over_writes_nothing(url: str) -> None:
    first = _open(url)
    second = _take_over(url, first)
    assert (second.epoch, _row(url, first).attempts) == (2, 2)
    with pytest.raises(Superseded), write_session(url) as session:
        operations.close(session, first)
    with write_session(url) as session:
        operations.close(session, second)
    with pytest.raises(Superseded), write_session(url) as session:
        operations.close(session, second)


def test_of_two_that_take_over_one_succeeds(url: str) -> None:
    claim = _open(url)
    with read_session(url) as session:
        seen = session.get_one(Operation, claim.operation_id)
    _take_over(url, claim)
    with pytest.raises(Superseded), write_session(url) as session:
        operations.take_over(session, seen)


@pytest.mark.parametrize(
    ("its_owner", "silent_s", "expected"),
    [
        ("me", 0, False),
        ("me", 61, True),  # a flow that failed without closing it
        ("dead", 0, True),
        ("elsewhere", 59, False),
        ("elsewhere", 61, True),
    ],
)
def test_what_may_be_taken_over(url: str, its_owner: str, silent_s: int, expected: bool) -> None:
    claim = _open(url)
    who = {"me": owner(), "dead": _dead_owner(), "elsewhere": "boot/1/2/3"}[its_owner]
    _set(url, claim, owner=who, heartbeat_at=utc_now() - timedelta(seconds=silent_s))
    assert bool(takeable([_row(url, claim)], 60)) is expected


def test_a_batch_and_its_parts_are_taken_over_together(url: str) -> None:
    """They were opened, or last heard of, some milliseconds apart."""
    batch = _open(url, Opening("stop", "batch", "id-0", "2 machines", {}))
    with write_session(url) as session:
        parts = operations.open_many(
            session,
            [WEB, Opening("stop", "vm", "id-2", "db", {})],
            actor="ada",
            parent_id=batch.operation_id,
        )
    family = [batch, *parts]
    for claim, silent_s in zip(family, (61, 59, 61), strict=True):
        _set(url, claim, owner="boot/1/2/3", heartbeat_at=utc_now() - timedelta(seconds=silent_s))
    assert takeable([_row(url, c) for c in family], 60) == []
    _set(url, parts[0], heartbeat_at=utc_now() - timedelta(seconds=61))
    assert len(takeable([_row(url, c) for c in family], 60)) == 3


def test_a_fence_within_its_lease_costs_no_question(tmp_path: Path) -> None:
    claim = Claim("id", 1)
    fence = Fence(f"sqlite:///{tmp_path}/nowhere/there-is-none.db", 60, [claim])
    fence.check(claim)
    with pytest.raises(Superseded):
        fence.check(Claim("id", 2))


def test_a_fence_renews_its_heartbeats(url: str) -> None:
    claim = _open(url)
    _set(url, claim, heartbeat_at=utc_now() - timedelta(hours=1))
    fence = Fence(url, 0, [claim])
    fence.check(claim)
    assert utc_now() - _row(url, claim).heartbeat_at < timedelta(minutes=1)


def test_a_fence_that_cannot_ask_lets_nothing_through(tmp_path: Path) -> None:
    claim = Claim("id", 1)
    fence = Fence(f"sqlite:///{tmp_path}/nowhere/there-is-none.db", 0, [claim])
    with pytest.raises(Exception, match="unable to open"):
        fence.check(claim)
