"""What every hypervisor promises of disks, drives and cards that come and go (drivers/contract.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.bench import Bench
from vdc.errors import DriverFailure, NotFound
from vdc.model import CdromAttachment, DeviceAttachment, DiskAttachment, NicSpec, nic_device, volume_file

TIMEOUT_S = 2.0
"""No guest is on the disk: nobody lets go of anything."""


class Furnished:
    """A machine, and a disk, a disc and a card that it has not got."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.machine = bench.machine()
        bench.provide(self.machine)
        self.hypervisor, self.name = bench.drivers.hypervisor, self.machine.spec.name
        bench.hand.harden(self.name)
        store = bench.drivers.datastore
        disk_format = store.capabilities.disk_format
        disk = replace(bench.disk(volume_file(self.machine.vm_id, disk_format), blank=True), index=1)
        store.ensure_disk(disk)
        mac = self.machine.nic.mac[:-2] + ("01" if self.machine.nic.mac.endswith("00") else "00")
        nic = NicSpec(1, self.machine.vnet, nic_device(self.machine.vm_id, 1), mac, "10.99.0.6")
        self.disk = DiskAttachment(store.path(disk.file), disk.format, 1)
        # Any file that is there does.
        self.disc = CdromAttachment(store.path(bench.image.file), bench.image.format, 0)
        bench.plug_in(nic)
        self.card = bench.drivers.network.attachment(self.machine.vnet, nic)

    @property
    def devices(self) -> tuple[DeviceAttachment, ...]:
        return self.disk, self.disc, self.card

    def has(self) -> tuple[bool, bool, bool]:
        seen = self.hypervisor.read_devices(self.name)
        return self.disk.path in seen.files, self.disc.path in seen.files, self.card.mac in seen.macs


@pytest.fixture
def furnished(hypervisor_bench: Bench) -> Furnished:
    return Furnished(hypervisor_bench)


def test_they_are_plugged_into_a_machine_that_runs_and_described_nowhere(furnished: Furnished) -> None:
    hypervisor, name = furnished.hypervisor, furnished.name
    hypervisor.ensure_started(name)
    assert furnished.has() == (False, False, False)
    assert [hypervisor.ensure_attached(name, device) for device in furnished.devices] == [True, True, True]
    assert [hypervisor.ensure_attached(name, device) for device in furnished.devices] == [False, False, False]
    assert furnished.has() == (True, True, True)
    assert not hypervisor.ensure_defined(furnished.machine.spec)
    # Nobody lets go of them; powering off does.
    assert not hypervisor.ensure_detached(name, furnished.disk, timeout_s=TIMEOUT_S)
    assert furnished.has() == (True, True, True)
    hypervisor.ensure_stopped(name)
    assert furnished.has() == (False, False, False)
    for device in furnished.devices:
        assert hypervisor.ensure_detached(name, device, timeout_s=TIMEOUT_S)


def test_a_machine_that_is_off_gets_them_by_its_description_alone(furnished: Furnished) -> None:
    hypervisor, spec = furnished.hypervisor, furnished.machine.spec
    assert not hypervisor.ensure_attached(spec.name, furnished.disk)
    assert furnished.has() == (False, False, False)
    larger = replace(
        spec,
        disks=(*spec.disks, furnished.disk),
        cdroms=(furnished.disc,),
        nics=(*spec.nics, furnished.card),
    )
    assert hypervisor.ensure_defined(larger)
    assert furnished.has() == (True, True, True)
    hypervisor.ensure_started(spec.name)
    assert furnished.has() == (True, True, True)
    assert hypervisor.read_shape(larger).disks_mib == (8, 8)
    for device in furnished.devices:
        assert not hypervisor.ensure_attached(spec.name, device)


def test_a_seed_is_shown_anew(furnished: Furnished) -> None:
    hypervisor, machine = furnished.hypervisor, furnished.machine
    hypervisor.refresh_seed(machine.spec)
    hypervisor.ensure_started(furnished.name)
    furnished.bench.drivers.datastore.ensure_seed(machine.seed, b"news" * 512)
    for _ in range(2):
        hypervisor.refresh_seed(machine.spec)
    assert machine.spec.seed_path in hypervisor.read_devices(furnished.name).files


def test_what_is_not_there_cannot_be_plugged_in(furnished: Furnished) -> None:
    furnished.hypervisor.ensure_started(furnished.name)
    with pytest.raises(DriverFailure):
        furnished.hypervisor.ensure_attached(
            furnished.name, replace(furnished.disk, path=furnished.disk.path + ".no")
        )
    assert furnished.has() == (False, False, False)


def test_of_a_machine_that_is_not_there(hypervisor_bench: Bench) -> None:
    spec = hypervisor_bench.machine().spec
    hypervisor = hypervisor_bench.drivers.hypervisor
    with pytest.raises(NotFound):
        hypervisor.read_devices(spec.name)
    with pytest.raises(NotFound):
        hypervisor.ensure_attached(spec.name, spec.disks[0])
    assert hypervisor.ensure_detached(spec.name, spec.disks[0], timeout_s=TIMEOUT_S)
