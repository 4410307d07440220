"""What every hypervisor promises of switching machines on and off (drivers/contract.py)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from drivers.contract import Hypervisor
from tests.contract.bench import Bench
from vdc.errors import DriverFailure, NotFound

SAVING_S = 60.0


class Switched:
    """A machine that is defined, and the driver of its host."""

    def __init__(self, bench: Bench) -> None:
        machine = bench.machine()
        bench.provide(machine)
        self.name = machine.spec.name
        self.bench = bench
        self.hypervisor: Hypervisor = bench.drivers.hypervisor

    def state(self) -> str:
        """The same, whether one is read or all."""
        seen = self.hypervisor.read_domain(self.name)
        assert seen in self.hypervisor.read_domains()
        assert seen is not None
        return seen.state

    def suspend(self) -> bool:
        return self.hypervisor.ensure_suspended(self.name, timeout_s=SAVING_S)


@pytest.fixture
def off(hypervisor_bench: Bench) -> Switched:
    return Switched(hypervisor_bench)


@pytest.fixture
def on(off: Switched) -> Switched:
    off.hypervisor.ensure_started(off.name)
    return off


def test_powered_off_once_and_started_again(on: Switched) -> None:
    assert on.hypervisor.ensure_stopped(on.name)
    assert on.state() == "stopped"
    assert not on.hypervisor.ensure_stopped(on.name)
    assert on.hypervisor.ensure_started(on.name)
    assert on.state() == "running"


def test_a_guest_that_does_not_listen_runs_on(on: Switched) -> None:
    on.bench.hand.silence(on.name)
    assert not on.hypervisor.ensure_shut_down(on.name, timeout_s=0.5)
    assert not on.hypervisor.reboot(on.name, timeout_s=0.5)
    assert on.state() == "running"


def test_what_is_off_is_shut_down_already(off: Switched) -> None:
    assert off.hypervisor.ensure_shut_down(off.name, timeout_s=0)


def test_paused_once_and_let_go_on(on: Switched) -> None:
    assert on.hypervisor.ensure_paused(on.name)
    assert on.state() == "paused"
    assert not on.hypervisor.ensure_paused(on.name)
    assert not on.hypervisor.ensure_shut_down(on.name, timeout_s=30), "it cannot hear: nobody waits for it"
    assert on.hypervisor.ensure_started(on.name)
    assert on.state() == "running"


@pytest.mark.parametrize("paused", [False, True])
def test_suspended_once_and_resumed_running(on: Switched, paused: bool) -> None:
    if paused:
        on.hypervisor.ensure_paused(on.name)
    assert on.suspend()
    assert on.state() == "suspended"
    assert not on.suspend()
    assert on.hypervisor.ensure_started(on.name)
    assert on.state() == "running"
    assert on.hypervisor.ensure_stopped(on.name)
    assert on.state() == "stopped", "what was saved was used up"


def test_saving_that_takes_too_long_is_aborted_and_it_runs_on(on: Switched) -> None:
    """Or it was faster than the abort: then it is saved."""
    why = ""
    try:
        on.hypervisor.ensure_suspended(on.name, timeout_s=0.01)
    except DriverFailure as error:
        why = str(error)
    assert on.state() == ("running" if why else "suspended")
    assert not why or "took longer than 0.01 s and was aborted" in why
    assert on.suspend() is bool(why)
    assert on.state() == "suspended"


def test_saved_memory_can_be_given_up(on: Switched) -> None:
    on.suspend()
    assert on.hypervisor.ensure_stopped(on.name)
    assert on.state() == "stopped"
    assert not on.hypervisor.ensure_stopped(on.name)


def test_a_suspended_machine_is_removed_whole(on: Switched) -> None:
    on.suspend()
    assert on.hypervisor.ensure_removed(on.name)
    assert on.hypervisor.read_domain(on.name) is None


def test_reset_and_it_runs(on: Switched) -> None:
    on.hypervisor.reset(on.name)
    assert on.state() == "running"


def test_the_screen_listens_on_the_hosts_loopback(on: Switched) -> None:
    seen = on.hypervisor.read_vnc(on.name)
    assert seen.address == "127.0.0.1"
    assert 5900 <= seen.port < 65536


ACTS: dict[str, Callable[[Hypervisor, str], object]] = {
    "ensure_paused": lambda h, name: h.ensure_paused(name),
    "ensure_suspended": lambda h, name: h.ensure_suspended(name, timeout_s=SAVING_S),
    "reboot": lambda h, name: h.reboot(name, timeout_s=1),
    "reset": lambda h, name: h.reset(name),
    "read_vnc": lambda h, name: h.read_vnc(name),
}


@pytest.mark.parametrize("act", ACTS)
def test_of_what_is_off_it_is_told(off: Switched, act: str) -> None:
    with pytest.raises(DriverFailure, match=off.name):
        ACTS[act](off.hypervisor, off.name)
    assert off.state() == "stopped"


ALWAYS = {
    "ensure_shut_down": lambda h, name: h.ensure_shut_down(name, timeout_s=1),
    "ensure_stopped": lambda h, name: h.ensure_stopped(name),
}


@pytest.mark.parametrize("act", {**ACTS, **ALWAYS})
def test_of_what_is_not_there_it_is_told(hypervisor_bench: Bench, act: str) -> None:
    with pytest.raises(NotFound, match="vm-nobody"):
        (ACTS | ALWAYS)[act](hypervisor_bench.drivers.hypervisor, "vm-nobody")
