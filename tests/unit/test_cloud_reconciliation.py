"""How clouds and inventory are compared: a pure function."""

from __future__ import annotations

from typing import Any

import pytest

from vdc.cloud_reconciliation import CloudDifferences, CloudSeen, KnownInstance, compare
from vdc.model import InstanceSeen
from vdc.states import VmState


def _known(state: VmState, **values: Any) -> KnownInstance:
    given = {"vm_id": "a", "name": "web", "cloud": "aws", "instance_id": "i-1", "busy": False} | values
    return KnownInstance(state=state, **given)


def _seen(*instances: tuple[str, str, str], error: str = "") -> CloudSeen:
    made = tuple(InstanceSeen(i, state, "t3.nano", "z", vm_id=vm) for i, state, vm in instances)
    return CloudSeen("aws", error, made)


@pytest.mark.parametrize(
    ("known", "seen", "found"),
    [
        (_known(VmState.RUNNING), _seen(("i-1", "running", "a")), {}),
        (_known(VmState.RUNNING), _seen(("i-1", "pending", "a")), {}),
        (_known(VmState.STOPPED), _seen(("i-1", "stopped", "a")), {}),
        (_known(VmState.RUNNING), _seen(("i-1", "stopped", "a")), {"adopt": {"a": VmState.STOPPED}}),
        (_known(VmState.STOPPED), _seen(("i-1", "running", "a")), {"adopt": {"a": VmState.RUNNING}}),
        (_known(VmState.RUNNING), _seen(), {"adopt": {"a": VmState.MISSING}}),
        (_known(VmState.MISSING), _seen(), {}),
        (_known(VmState.MISSING), _seen(("i-1", "running", "a")), {"adopt": {"a": VmState.RUNNING}}),
        (_known(VmState.RUNNING, busy=True), _seen(), {}),
        (_known(VmState.TERMINATING), _seen(), {"leaving": ["a"]}),
        (_known(VmState.TERMINATING, busy=True), _seen(), {}),
        (_known(VmState.GONE), _seen(("i-1", "running", "a")), {"leftover": ["a"]}),
        (_known(VmState.GONE), _seen(), {}),
        (_known(VmState.FAILED), _seen(("i-9", "running", "a")), {"leftover": ["a"]}),
        (_known(VmState.RUNNING, cloud="other"), _seen(), {}),
        (_known(VmState.DEPLOYING, busy=True), _seen(("i-1", "running", "a")), {}),
    ],
)
def test_what_is_done(known: KnownInstance, seen: CloudSeen, found: dict[str, object]) -> None:
    assert compare([known], [seen]) == CloudDifferences(**found)


def test_a_cloud_that_does_not_answer_concludes_nothing() -> None:
    known = [_known(VmState.RUNNING), _known(VmState.TERMINATING, vm_id="b")]
    found = compare(known, [_seen(error="no route")])
    assert [(f.what, f.object, f.action) for f in found.report] == [
        ("cloud unreachable", "cloud/aws", "no route")
    ]
    assert (found.adopt, found.leaving, found.leftover) == ({}, [], [])


def test_what_is_not_known_is_reported_and_left() -> None:
    seen = _seen(("i-1", "running", "a"), ("i-2", "running", "a"), ("i-3", "running", "?"))
    found = compare([_known(VmState.RUNNING)], [seen])
    assert [(f.what, f.object, f.action.split(":")[0]) for f in found.report] == [
        ("instance that the inventory does not know", "i-3", "left alone"),
        ("second instance of a machine", "i-2", "left alone"),
    ]
    assert (found.adopt, found.leaving, found.leftover) == ({}, [], [])
