"""What a guest's agent answers when its guest is to grow its root file system, and what becomes of that."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import libvirt
import libvirt_qemu
import pytest

from drivers.hypervisor import agent
from tests.unit.test_libvirt_errors import failed


class Guest:
    """libvirt's connection, domain and agent at once; `told` is what the agent answers, in order."""

    def __init__(self, *told: object, on: bool = True) -> None:
        self.told = list(told)
        self.on = on
        self.asked: list[dict[str, Any]] = []

    def lookupByName(self, name: str) -> Guest:
        assert name == "vm-1"
        return self

    def isActive(self) -> bool:
        return self.on

    def answer(self, domain: Guest, command: str, timeout_s: int, flags: int) -> str:
        assert domain is self
        self.asked.append(json.loads(command))
        told = self.told.pop(0)
        if isinstance(told, Exception):
            raise told
        return json.dumps({"return": told})


def grow(guest: Guest, monkeypatch: pytest.MonkeyPatch, timeout_s: float = 60) -> str:
    monkeypatch.setattr(libvirt_qemu, "qemuAgentCommand", guest.answer)
    monkeypatch.setattr(agent, "WATCH_S", 0)

    def call(what: str, act: Callable[[Any], Any]) -> Any:
        return act(guest)

    return agent.grow_root(call, "vm-1", timeout_s)


def _said(text: str) -> str:
    return b64encode(text.encode()).decode()


BEGUN = {"pid": 7}
RUNS = {"exited": False}


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ([BEGUN, RUNS, RUNS, {"exited": True, "exitcode": 0}], ""),
        (
            [BEGUN, {"exited": True, "exitcode": 1, "err-data": _said("it has no cloud-init\n\n")}],
            "no cloud-in",
        ),
        ([BEGUN, {"exited": True, "exitcode": 2}], "command failed: 2"),
        ([BEGUN, {"exited": True, "signal": 9}], "command failed: it was killed"),
        ([failed(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)], "its guest's agent does not do it: it broke"),
        ([failed(libvirt.VIR_ERR_INTERNAL_ERROR)], "its guest's agent does not do it"),
        ([BEGUN, failed(libvirt.VIR_ERR_AGENT_UNRESPONSIVE)], "its guest's agent does not do it"),
    ],
)
def test_why_it_did_not(told: list[object], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(*told)
    answer = grow(guest, monkeypatch)
    assert why in answer
    assert bool(answer) == bool(why)
    assert guest.told == []
    begun = guest.asked[0]
    assert (begun["execute"], begun["arguments"]["path"]) == ("guest-exec", "/bin/sh")
    assert all(asked["arguments"] == {"pid": 7} for asked in guest.asked[1:])


def test_it_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert grow(Guest(BEGUN, RUNS), monkeypatch, 0) == "its guest has not done so within 0 s"


def test_one_that_is_off_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(on=False)
    assert grow(guest, monkeypatch) == ""
    assert guest.asked == []


def test_a_host_that_is_lost_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(libvirt.libvirtError):
        grow(Guest(failed(libvirt.VIR_ERR_NO_CONNECT)), monkeypatch)
