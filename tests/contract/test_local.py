"""What is promised of datastores of which each host has a part of its own (drivers/contract.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.bench import Bench
from tests.contract.threads import THREADS, at_once
from vdc.errors import DriverFailure, Invalid
from vdc.model import FileSource, ImageSpec

TIMEOUT_S = 120.0


@pytest.fixture
def bench(local_bench: Bench) -> Bench:
    return local_bench


def test_a_host_gets_the_image_with_its_first_disk_once_whoever_asks(bench: Bench) -> None:
    here, there = bench.drivers.datastore, bench.on(bench.second_host()).datastore
    assert here.ensure_image(bench.image, bench.source)
    assert there.read_files() == {}, "it is brought when it is needed"
    # What somebody who was killed has left of an earlier copy.
    half = f"{bench.image.file}.part-dead"
    bench.second_hand().plant_file(half, 100)
    disks = [bench.disk(f"vm-{n}-disk0.img") for n in range(THREADS)]
    assert all(at_once(there.ensure_disk, disks))
    assert set(there.read_files()) - {half} == {bench.image.file, *(disk.file for disk in disks)}
    assert there.read_files()[bench.image.file] == here.read_files()[bench.image.file]
    assert bench.second_hand().holds_image(disks[0].file, bench.source)
    assert set(here.read_files()) == {bench.image.file}, "each host has its own"
    # Removed from one host, it is there on the other, and not to be had any more.
    assert here.ensure_removed([bench.image.file])
    assert bench.image.file in there.read_files()
    with pytest.raises(DriverFailure, match=bench.image.file):
        here.ensure_disk(bench.disk("vm-x-disk0.img"))
    assert there.ensure_removed([bench.image.file])


def test_an_image_that_was_made_on_a_host_can_be_had_on_the_other(bench: Bench) -> None:
    here, there = bench.drivers.datastore, bench.on(bench.second_host()).datastore
    here.ensure_image(bench.image, bench.source)
    disk = bench.disk("vm-a-disk0.img", size_mib=1)
    here.ensure_disk(disk)
    image = ImageSpec("made", "image-made.qcow2", "qcow2", 1)
    source = FileSource(disk.file, disk.format, 1)
    assert here.ensure_image_from(image, source)
    assert there.ensure_disk(replace(bench.disk("vm-b-disk0.img", size_mib=1), image=image))
    assert there.read_image(image) == here.read_image(image)
    assert bench.second_hand().holds_image("vm-b-disk0.img", bench.source)


def test_a_disk_of_a_machine_that_is_off_is_copied_to_the_other_host(bench: Bench) -> None:
    machine, there = bench.machine(), bench.on(bench.second_host()).datastore
    bench.provide(machine)
    bench.drivers.hypervisor.ensure_started(machine.spec.name)
    bench.hand.write_disk(machine.spec, 42)
    bench.drivers.hypervisor.ensure_stopped(machine.spec.name)
    bench.second_hand().plant_file(f"{machine.disk.file}.part-dead", 100)
    assert there.ensure_disk_from(machine.disk, bench.host)
    assert not there.ensure_disk_from(machine.disk, bench.host)
    assert there.ensure_removed([machine.disk.file])
    assert set(there.read_files()) == {bench.image.file}
    assert there.ensure_disk_from(machine.disk, bench.host)
    there.ensure_seed(machine.seed, b"seed" * 512)
    on = bench.on(bench.second_host())
    bench.plug_in(machine.nic, on)
    on.hypervisor.ensure_defined(machine.spec)
    bench.drivers.hypervisor.ensure_removed(machine.spec.name)
    try:
        assert bench.second_hand().read_disk(machine.spec) == 42
    finally:
        on.hypervisor.ensure_removed(machine.spec.name)
    assert machine.disk.file in bench.drivers.datastore.read_files(), "a copy: the other one stays"


def test_a_disk_that_is_not_there_is_not_copied(bench: Bench) -> None:
    there = bench.on(bench.second_host()).datastore
    with pytest.raises(DriverFailure, match="No such file"):
        there.ensure_disk_from(bench.disk("vm-a-disk0.img", blank=True), bench.host)
    assert there.read_files() == {}
    with pytest.raises(Invalid, match="plain file name"):
        there.ensure_disk_from(bench.disk("../vm-a", blank=True), bench.host)


def test_a_running_machine_takes_its_disk_along(bench: Bench) -> None:
    machine, destination = bench.machine(), bench.second_host()
    there = bench.on(destination)
    bench.provide(machine)
    bench.drivers.hypervisor.ensure_started(machine.spec.name)
    bench.hand.write_disk(machine.spec, 42)
    there.datastore.ensure_disk(machine.disk)
    there.datastore.ensure_seed(machine.seed, b"seed" * 512)
    bench.plug_in(machine.nic, there)
    try:
        bench.drivers.hypervisor.ensure_migrated(
            machine.spec.name, destination, copy=(0,), timeout_s=TIMEOUT_S
        )
        seen = there.hypervisor.read_domain(machine.spec.name)
        assert seen is not None
        assert seen.state == "running"
        assert bench.drivers.hypervisor.read_domain(machine.spec.name) is None
        assert bench.second_hand().read_disk(machine.spec) == 42
        bench.second_hand().write_disk(machine.spec, 43)
        there.hypervisor.ensure_stopped(machine.spec.name)
        assert bench.second_hand().read_disk(machine.spec) == 43
        assert there.datastore.check_disk(machine.disk.file) == []
        # What it is made from is on this host alone by now.
        assert bench.drivers.datastore.ensure_removed([machine.disk.file, machine.seed])
        assert bench.second_hand().read_disk(machine.spec) == 43
    finally:
        there.hypervisor.ensure_removed(machine.spec.name)
