"""What every hypervisor promises of live migration (drivers/contract.py)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from drivers.contract import Hypervisor
from tests.contract.bench import Bench, Drivers, Machine
from vdc.errors import DriverFailure, HostUnreachable
from vdc.model import MigrationResult, MigrationTuning

TIMEOUT_S = 120.0


class Pair:
    """A machine that runs on the bench's host, and a second host that is ready for it."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.destination = bench.second_host()
        self.here: Drivers = bench.drivers
        self.there: Drivers = bench.on(self.destination)
        self.machine: Machine = bench.machine()
        self.name = self.machine.spec.name
        bench.provide(self.machine)
        bench.plug_in(self.machine.nic, self.there)

    def migrate(self, seen: list[tuple[int, int]] | None = None) -> None:
        self.here.hypervisor.ensure_migrated(
            self.name,
            self.destination,
            progress=None if seen is None else lambda done, total: seen.append((done, total)),
            timeout_s=TIMEOUT_S,
        )

    def settle(self) -> bool:
        """Whether it is on the second host."""
        found = self.here.hypervisor.ensure_settled(self.name, self.destination, timeout_s=TIMEOUT_S)
        return found is not None

    def states(self) -> tuple[str | None, str | None]:
        return state(self.here.hypervisor, self.name), state(self.there.hypervisor, self.name)


def state(hypervisor: Hypervisor, name: str) -> str | None:
    seen = hypervisor.read_domain(name)
    return seen.state if seen else None


@pytest.fixture
def pair(hypervisor_bench: Bench) -> Iterator[Pair]:
    pair = Pair(hypervisor_bench)
    try:
        yield pair
    finally:
        pair.there.hypervisor.ensure_removed(pair.name)


def test_a_running_machine_goes_over_with_its_card_and_is_known_as_ours(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    before = pair.here.hypervisor.read_domain(pair.name)
    seen: list[tuple[int, int]] = []
    pair.migrate(seen)
    assert pair.states() == (None, "running")
    assert pair.there.hypervisor.read_domain(pair.name) == before
    for network in (pair.there.network, pair.here.network):
        assert pair.machine.nic.device in network.read_ports(), "libvirt neither makes nor removes it"
    assert all(0 <= done <= total for done, total in seen)
    assert not pair.there.hypervisor.ensure_defined(pair.machine.spec), "its description went with it"


def test_what_it_took_is_told(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    told = pair.here.hypervisor.ensure_migrated(pair.name, pair.destination, timeout_s=TIMEOUT_S)
    assert told.total_s is not None
    assert told.downtime_s is not None
    assert 0 <= told.downtime_s < 10
    assert told.total_s < TIMEOUT_S


def test_it_may_be_told_how_hard_to_press(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    tuning = MigrationTuning(bandwidth_mib_s=200, max_downtime_ms=500, auto_converge=True)
    pair.here.hypervisor.ensure_migrated(pair.name, pair.destination, tuning=tuning, timeout_s=TIMEOUT_S)
    assert pair.states() == (None, "running")


def test_migrated_twice_is_migrated_once_and_it_can_come_back(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    pair.migrate()
    pair.migrate()
    assert pair.states() == (None, "running")
    assert pair.settle()
    pair.there.hypervisor.ensure_migrated(pair.name, pair.bench.host, timeout_s=TIMEOUT_S)
    assert pair.states() == ("running", None)
    assert not pair.settle()


def test_what_does_not_run_is_not_migrated(pair: Pair) -> None:
    with pytest.raises(DriverFailure, match=pair.name):
        pair.migrate()
    assert pair.states() == ("stopped", None)
    assert not pair.settle()
    assert pair.states() == ("stopped", None)


def test_what_the_destination_refuses_runs_on_where_it_is(pair: Pair) -> None:
    """It has another domain of this name."""
    pair.here.hypervisor.ensure_started(pair.name)
    pair.there.hypervisor.ensure_defined(replace(pair.machine.spec, vm_id=str(uuid.uuid4())))
    with pytest.raises(DriverFailure, match=pair.name):
        pair.migrate()
    assert pair.states() == ("running", "stopped")


def test_a_copy_that_never_ran_is_removed(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    pair.there.hypervisor.ensure_defined(pair.machine.spec)
    assert not pair.settle()
    assert pair.states() == ("running", None)


def test_what_the_source_still_knows_of_a_machine_that_went_over_is_removed(pair: Pair) -> None:
    pair.there.hypervisor.ensure_defined(pair.machine.spec)
    pair.there.hypervisor.ensure_started(pair.name)
    assert pair.states() == ("stopped", "running")
    assert pair.settle()
    assert pair.states() == (None, "running")


def test_of_two_that_are_off_the_source_keeps_its_own(pair: Pair) -> None:
    pair.there.hypervisor.ensure_defined(pair.machine.spec)
    assert pair.states() == ("stopped", "stopped")
    assert not pair.settle()
    assert pair.states() == ("stopped", None)


def test_off_and_there_alone_it_has_moved_and_nothing_was_counted(pair: Pair) -> None:
    pair.there.hypervisor.ensure_defined(pair.machine.spec)
    pair.here.hypervisor.ensure_removed(pair.name)
    told = pair.here.hypervisor.ensure_settled(pair.name, pair.destination, timeout_s=TIMEOUT_S)
    assert told == MigrationResult(None, None)
    assert pair.states() == (None, "stopped")


def test_on_neither_host_nothing_is_concluded(pair: Pair) -> None:
    pair.here.hypervisor.ensure_removed(pair.name)
    assert not pair.settle()
    assert pair.states() == (None, None)


def test_an_unreachable_destination_is_told(pair: Pair) -> None:
    pair.here.hypervisor.ensure_started(pair.name)
    nobody = pair.bench.unreachable_host()
    for call in (pair.here.hypervisor.ensure_migrated, pair.here.hypervisor.ensure_settled):
        with pytest.raises(HostUnreachable, match=nobody.name):
            call(pair.name, nobody, timeout_s=TIMEOUT_S)
    assert pair.states() == ("running", None)
