"""A machine whose disks QEMU opens on a file server by itself: all that is done with it is done there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.bench import Bench
from tests.contract.test_migration import Pair
from tests.contract.test_snapshot import Subject
from tests.lab_fixture import LabAccess
from vdc.model import CdromAttachment, DiskAttachment, volume_file

pytestmark = pytest.mark.lab

TIMEOUT_S = 120.0


@pytest.fixture
def bench(lab: LabAccess, tmp_path: Path) -> Iterator[Bench]:
    from tests.contract.lab_bench import LabBench

    bench = LabBench(lab, tmp_path, datastore="nfs")
    try:
        yield bench
    finally:
        bench.close()


def test_its_machine_is_moved_kept_taken_back_grown_and_given_devices(bench: Bench) -> None:
    pair = Pair(bench)
    try:
        _live(bench, pair)
    finally:
        pair.there.hypervisor.ensure_removed(pair.name)


def _live(bench: Bench, pair: Pair) -> None:
    here, there, spec = pair.here.hypervisor, pair.there.hypervisor, pair.machine.spec
    here.ensure_started(pair.name)
    bench.hand.write_disk(spec, 7)
    pair.migrate()
    assert pair.states() == (None, "running")
    assert there.ensure_defined(spec) is False
    store = bench.drivers.datastore
    volume = replace(bench.disk(volume_file(pair.machine.vm_id, "qcow2"), blank=True), index=1)
    store.ensure_disk(volume)
    disk = DiskAttachment(store.path(volume.file), "qcow2", 1)
    disc = CdromAttachment(store.path(bench.image.file), bench.image.format, 0)
    assert there.ensure_attached(pair.name, disk)
    assert there.ensure_attached(pair.name, disc)
    assert not there.ensure_attached(pair.name, disk)
    assert there.read_devices(pair.name).files >= {disk.path, disc.path, spec.disks[0].path, spec.seed_path}
    there.refresh_seed(spec)
    assert there.ensure_disk_grown(spec, 0, 16)
    assert bench.hand.virtual_size_mib(pair.machine.disk.file) == 16
    there.ensure_stopped(pair.name)
    assert bench.second_hand().read_disk(spec) == 7, "what was written before it moved"
    assert store.check_disk(pair.machine.disk.file) == []


def test_its_snapshots_are_in_its_disk(bench: Bench) -> None:
    subject = Subject(bench)
    off = subject.take("disk")
    subject.start()
    subject.write_memory(11)
    subject.write_disk(1)
    disk, memory = subject.take("disk"), subject.take("memory")
    subject.write_disk(2)
    subject.back(memory)
    assert (subject.disk(), subject.memory(), subject.state()) == (1, 11, "running")
    subject.write_disk(3)
    subject.back(disk)
    assert (subject.disk(), subject.state()) == (1, "running")
    assert subject.remove(memory)
    bench.drivers.hypervisor.ensure_stopped(subject.spec.name)
    assert subject.kept() == {off.snapshot_id: "disk", disk.snapshot_id: "disk"}
    subject.back(off, "stopped")
    assert subject.disk() != 1
    assert subject.remove(off)
    assert bench.drivers.datastore.check_disk(subject.machine.disk.file) == []
    missing = replace(subject.spec, disks=(DiskAttachment(bench.drivers.datastore.path("vm-no"), "qcow2"),))
    bench.drivers.hypervisor.ensure_removed(subject.spec.name)
    assert bench.drivers.hypervisor.read_snapshots(missing) == []
    assert not bench.drivers.hypervisor.ensure_snapshot_removed(missing, str(uuid.uuid4()))
