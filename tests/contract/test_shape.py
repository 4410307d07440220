"""What every hypervisor promises of a machine's size (drivers/contract.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.bench import Bench
from vdc.errors import NotFound
from vdc.model import ShapeSeen

TIMEOUT_S = 2.0
"""No guest is on the disk: nobody gives anything back."""


class Sized:
    """A machine with one vCPU and room for four, 32 MiB, and a disk of 8."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.machine = bench.machine(vcpu=1, max_vcpu=4)
        bench.provide(self.machine)
        self.hypervisor = bench.drivers.hypervisor
        self.spec = self.machine.spec
        bench.hand.harden(self.spec.name)

    def start(self) -> None:
        self.hypervisor.ensure_started(self.spec.name)

    def shape(self, **wanted: int) -> ShapeSeen:
        return self.hypervisor.ensure_shape(replace(self.spec, **wanted), timeout_s=TIMEOUT_S)  # type: ignore[arg-type]

    def grow(self, size_mib: int) -> bool:
        return self.hypervisor.ensure_disk_grown(self.spec, 0, size_mib)

    def seen(self) -> ShapeSeen:
        return self.hypervisor.read_shape(self.spec)


@pytest.fixture
def sized(hypervisor_bench: Bench) -> Sized:
    return Sized(hypervisor_bench)


def test_what_it_has(sized: Sized) -> None:
    assert sized.seen() == ShapeSeen(False, 1, 1, 4, 32, 32, (8,))
    sized.start()
    assert sized.seen() == ShapeSeen(True, 1, 1, 4, 32, 32, (8,))


def test_cpus_are_plugged_in_up_to_the_bound_and_stay_described_as_they_were(sized: Sized) -> None:
    sized.start()
    for _ in range(2):
        assert sized.shape(vcpu=3).vcpu == 3
    assert sized.seen().vcpu == 3
    assert sized.shape(vcpu=5).vcpu == 3, "beyond the bound nothing is changed"
    assert not sized.hypervisor.ensure_defined(sized.spec)
    sized.hypervisor.ensure_stopped(sized.spec.name)
    assert sized.seen().vcpu == 1


def test_a_description_that_is_changed_while_it_runs_is_that_of_its_next_start(sized: Sized) -> None:
    sized.start()
    larger = replace(sized.spec, vcpu=5, max_vcpu=10, memory_mib=48)
    assert sized.hypervisor.ensure_defined(larger)
    assert not sized.hypervisor.ensure_defined(larger)
    assert sized.seen() == ShapeSeen(True, 1, 1, 4, 32, 32, (8,))
    sized.hypervisor.ensure_stopped(sized.spec.name)
    assert sized.hypervisor.read_shape(larger) == ShapeSeen(False, 5, 5, 10, 48, 48, (8,))
    sized.start()
    assert sized.hypervisor.read_shape(larger) == ShapeSeen(True, 5, 5, 10, 48, 48, (8,))


def test_a_guest_that_gives_nothing_back_keeps_what_it_has(sized: Sized) -> None:
    sized.start()
    assert sized.shape(memory_mib=24).memory_mib == 32
    assert sized.shape(memory_mib=64).memory_mib == 32, "more than it was started with"
    assert sized.seen() == ShapeSeen(True, 1, 1, 4, 32, 32, (8,))


def test_nothing_is_plugged_into_a_machine_that_is_off(sized: Sized) -> None:
    assert sized.shape(vcpu=3) == ShapeSeen(False, 1, 1, 4, 32, 32, (8,))


def test_a_disk_grows_while_it_runs(sized: Sized) -> None:
    sized.start()
    assert sized.grow(12)
    assert not sized.grow(12)
    assert not sized.grow(8), "it never shrinks"
    assert sized.seen().disks_mib == (12,)
    sized.hypervisor.ensure_stopped(sized.spec.name)
    assert sized.bench.hand.virtual_size_mib(sized.machine.disk.file) == 12


def test_a_disk_grows_while_it_is_off(sized: Sized) -> None:
    sized.bench.hand.write_disk(sized.spec, 7)
    assert sized.grow(12)
    assert not sized.grow(12)
    assert not sized.grow(8)
    assert sized.bench.hand.virtual_size_mib(sized.machine.disk.file) == 12
    assert sized.seen().disks_mib == (12,)
    sized.start()
    assert sized.seen().disks_mib == (12,)
    assert sized.bench.hand.read_disk(sized.spec) == 7


def test_of_a_machine_that_is_not_there_nothing_is_known(hypervisor_bench: Bench) -> None:
    spec = hypervisor_bench.machine().spec
    with pytest.raises(NotFound):
        hypervisor_bench.drivers.hypervisor.read_shape(spec)
    with pytest.raises(NotFound):
        hypervisor_bench.drivers.hypervisor.ensure_shape(spec, timeout_s=TIMEOUT_S)
