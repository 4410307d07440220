"""What every hypervisor promises of snapshots (drivers/contract.py)."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from tests.contract.bench import Bench, Machine
from vdc.errors import Busy, DriverFailure
from vdc.model import FileSource, ImageSpec, SnapshotSpec

TIMEOUT_S = 120.0


class Subject:
    """A machine with marks in its memory and on its disk."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.hypervisor = bench.drivers.hypervisor
        self.machine: Machine = bench.machine()
        self.spec = self.machine.spec
        bench.provide(self.machine)

    def start(self, *, paused: bool = False) -> None:
        self.hypervisor.ensure_started(self.spec.name, paused=paused)

    def take(self, kind: str) -> SnapshotSpec:
        made = SnapshotSpec(str(uuid.uuid4()), kind)
        assert self.again(made)
        return made

    def again(self, made: SnapshotSpec) -> bool:
        return self.hypervisor.ensure_snapshot(self.spec, made, timeout_s=TIMEOUT_S)

    def back(self, to: SnapshotSpec, start: str = "running") -> None:
        self.hypervisor.ensure_reverted(self.spec, to, start=start, timeout_s=TIMEOUT_S)

    def remove(self, snapshot: SnapshotSpec) -> bool:
        return self.hypervisor.ensure_snapshot_removed(self.spec, snapshot.snapshot_id)

    def kept(self) -> dict[str, str]:
        seen = self.hypervisor.read_snapshots(self.spec)
        assert all(s.whole for s in seen)
        return {s.snapshot_id: s.kind for s in seen}

    def state(self) -> str:
        seen = self.hypervisor.read_domain(self.spec.name)
        assert seen is not None
        return seen.state

    def write_disk(self, value: int) -> None:
        self.bench.hand.write_disk(self.spec, value)

    def write_memory(self, value: int) -> None:
        self.bench.hand.write_memory(self.spec, value)

    def disk(self) -> int:
        return self.bench.hand.read_disk(self.spec)

    def memory(self) -> int:
        return self.bench.hand.read_memory(self.spec)


@pytest.fixture
def subject(hypervisor_bench: Bench) -> Subject:
    return Subject(hypervisor_bench)


def test_memory_and_disk_are_brought_back_while_it_runs(subject: Subject) -> None:
    subject.start()
    subject.write_disk(1)
    subject.write_memory(11)
    first = subject.take("memory")
    assert subject.state() == "running"
    subject.write_disk(2)
    subject.write_memory(12)
    subject.back(first)
    assert (subject.disk(), subject.memory(), subject.state()) == (1, 11, "running")
    assert subject.kept() == {first.snapshot_id: "memory"}
    assert not subject.hypervisor.ensure_defined(subject.spec), "it is described as before"


def test_a_paused_machine_runs_on_from_its_memory(subject: Subject) -> None:
    subject.start()
    subject.write_memory(11)
    first = subject.take("memory")
    subject.bench.hand.power_off(subject.spec)
    subject.start(paused=True)
    subject.back(first, start="paused")
    assert (subject.memory(), subject.state()) == (11, "running")


def test_a_stopped_machine_runs_on_from_its_memory(subject: Subject) -> None:
    subject.start()
    subject.write_disk(1)
    subject.write_memory(11)
    first = subject.take("memory")
    subject.bench.hand.power_off(subject.spec)
    subject.write_disk(2)
    subject.back(first, start="stopped")
    assert (subject.disk(), subject.memory(), subject.state()) == (1, 11, "running")
    # Loading does not use it up.
    subject.write_disk(3)
    subject.back(first)
    assert (subject.disk(), subject.memory()) == (1, 11)


def test_disks_are_kept_while_it_runs_and_going_back_starts_it_anew(subject: Subject) -> None:
    subject.start()
    subject.write_disk(1)
    subject.write_memory(11)
    first = subject.take("disk")
    assert (subject.state(), subject.memory()) == ("running", 11)
    subject.write_disk(2)
    subject.back(first)
    assert (subject.disk(), subject.memory(), subject.state()) == (1, 0, "running")


@pytest.mark.parametrize("start", ["running", "paused", "stopped"])
def test_going_back_to_disks_leaves_it_as_asked(subject: Subject, start: str) -> None:
    subject.write_disk(1)
    first = subject.take("disk")
    assert subject.state() == "stopped"
    subject.start()
    subject.write_disk(2)
    subject.back(first, start=start)
    assert (subject.disk(), subject.state()) == (1, start)


def test_they_go_back_in_any_order_and_one_more_is_made_from_there(subject: Subject) -> None:
    subject.start()
    made = []
    for n, kind in enumerate(("memory", "disk", "memory"), start=1):
        subject.write_disk(n)
        subject.write_memory(10 + n)
        made.append(subject.take(kind))
    first, second, third = made
    subject.back(first)
    assert (subject.disk(), subject.memory()) == (1, 11)
    subject.write_disk(4)
    branch = subject.take("disk")
    subject.back(third)
    assert (subject.disk(), subject.memory()) == (3, 13)
    subject.back(second)
    assert (subject.disk(), subject.memory()) == (2, 0)
    subject.back(branch)
    assert subject.disk() == 4
    assert subject.remove(first)
    assert subject.remove(third)
    assert subject.kept() == {second.snapshot_id: "disk", branch.snapshot_id: "disk"}
    subject.back(second)
    assert subject.disk() == 2


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_made_twice_is_made_once_and_removed_twice_is_removed_once(subject: Subject, kind: str) -> None:
    subject.start()
    subject.write_disk(1)
    made = subject.take(kind)
    subject.write_disk(2)
    assert not subject.again(made), "the first one stays"
    subject.back(made)
    assert subject.disk() == 1
    assert subject.remove(made)
    assert not subject.remove(made)
    assert subject.kept() == {}
    assert subject.disk() == 1


def test_what_it_took_is_told(subject: Subject) -> None:
    subject.start()
    subject.take("memory")
    subject.take("disk")
    sizes = {s.kind: s.size_mib for s in subject.hypervisor.read_snapshots(subject.spec)}
    assert sizes["disk"] == 0
    assert 0 < sizes["memory"] <= 64, "of a machine with 32 MiB"


def test_what_does_not_run_has_no_memory_to_keep(subject: Subject) -> None:
    with pytest.raises(DriverFailure, match="does not run"):
        subject.take("memory")
    assert subject.kept() == {}


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_is_not_there_is_not_gone_back_to_and_nothing_is_touched(subject: Subject, kind: str) -> None:
    subject.start()
    subject.write_memory(11)
    with pytest.raises(DriverFailure, match="no such snapshot"):
        subject.back(SnapshotSpec(str(uuid.uuid4()), kind))
    assert (subject.state(), subject.memory()) == ("running", 11)


def test_they_outlive_the_domain_and_can_be_removed_without_it(subject: Subject) -> None:
    """libvirt's description of a machine may get lost; what it is about is in the disk."""
    subject.start()
    subject.write_disk(1)
    subject.write_memory(11)
    first, second = subject.take("memory"), subject.take("disk")
    subject.hypervisor.ensure_removed(subject.spec.name)
    assert subject.kept() == {first.snapshot_id: "memory", second.snapshot_id: "disk"}
    assert subject.remove(second)
    subject.hypervisor.ensure_defined(subject.spec)
    subject.back(first)
    assert (subject.disk(), subject.memory(), subject.state()) == (1, 11, "running")


def test_they_go_with_the_disk(subject: Subject) -> None:
    subject.start()
    first = subject.take("memory")
    subject.hypervisor.ensure_removed(subject.spec.name)
    subject.bench.drivers.datastore.ensure_removed([subject.machine.disk.file])
    assert subject.kept() == {}
    assert not subject.remove(first)


def test_an_image_is_made_of_one_moment_while_the_guest_writes_on(subject: Subject) -> None:
    bench = subject.bench
    datastore, disk = bench.drivers.datastore, subject.machine.disk
    subject.start()
    subject.write_disk(7)
    moment = subject.take("disk")
    subject.write_disk(9)
    image = ImageSpec("made", "image-made.qcow2", "qcow2", disk.size_mib)
    source = FileSource(disk.file, disk.format, disk.size_mib, snapshot_id=moment.snapshot_id)
    assert datastore.ensure_image_from(image, source)
    assert subject.remove(moment)
    twin = bench.machine()
    twin = replace(twin, disk=replace(twin.disk, image=image))
    bench.provide(twin)
    assert bench.hand.read_disk(twin.spec) == 7
    assert (subject.disk(), subject.state(), subject.kept()) == (9, "running", {})


def test_no_image_is_made_of_a_disk_that_a_guest_writes_to(subject: Subject) -> None:
    disk = subject.machine.disk
    subject.start()
    image = ImageSpec("made", "image-made.qcow2", "qcow2", disk.size_mib)
    with pytest.raises(Busy):
        subject.bench.drivers.datastore.ensure_image_from(
            image, FileSource(disk.file, disk.format, disk.size_mib)
        )
    assert image.file not in subject.bench.drivers.datastore.read_files()
