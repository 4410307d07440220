"""A machine on a real host, down to what libvirt, qemu-img and Open vSwitch say of it."""

from __future__ import annotations

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import libvirt
import pytest

from drivers import registry
from drivers.contract import Datastore, Hypervisor, Network
from drivers.ssh import connection
from tests.lab_fixture import LabAccess
from vdc.model import (
    DiskAttachment,
    DiskSpec,
    DomainSpec,
    ImageSpec,
    NicSpec,
    VnetSpec,
    disk_file,
    domain_name,
    image_file,
    nic_device,
    seed_file,
)

pytestmark = pytest.mark.lab

VNET = VnetSpec("v1", "front", "vlan://ovsbr0", 123, "10.9.0.0/24")


@dataclass
class Machine:
    """A machine's parts on the lab's first host."""

    lab: LabAccess
    hypervisor: Hypervisor
    datastore: Datastore
    network: Network
    image: ImageSpec
    disk: DiskSpec
    spec: DomainSpec

    @property
    def libvirt_uri(self) -> str:
        return self.lab.host().uri

    def on_host(self, *argv: str) -> str:
        return connection(self.lab.host(), self.lab.access).run(argv).decode()


@pytest.fixture
def machine(lab: LabAccess, tmp_path: Path) -> Iterator[Machine]:
    """Disk, seed and definition made; nothing started."""
    host, uri = lab.host(), "qcow2:///srv/vdc/shared"
    hypervisor = registry.hypervisor(host, lab.access)
    datastore = registry.datastore(uri, host, lab.access)
    network = registry.network(VNET.uri, host, lab.access)
    source = tmp_path / "image.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(source), "16M"], check=True)
    vm_id, image_id = str(uuid.uuid4()), str(uuid.uuid4())
    image = ImageSpec(image_id, image_file(image_id, "qcow2"), "qcow2", 16)
    disk = DiskSpec(0, uri, disk_file(vm_id, 0, "qcow2"), "qcow2", 32, image)
    nic = NicSpec(0, VNET, nic_device(vm_id, 0), "52:54:00:12:34:56", "10.9.0.2")
    spec = DomainSpec(
        name=domain_name(vm_id),
        vm_id=vm_id,
        vm_name="web",
        tenant="acme",
        site="lab",
        domain_type="qemu",
        arch="x86_64",
        vcpu=1,
        memory_mib=48,
        disks=(DiskAttachment(datastore.path(disk.file), "qcow2"),),
        seed_path=datastore.path(seed_file(vm_id)),
        nics=(network.attachment(VNET, nic),),
    )
    try:
        datastore.ensure_image(image, source)
        datastore.ensure_disk(disk)
        datastore.ensure_seed(seed_file(vm_id), bytes(65536))
        network.ensure_network(VNET)
        network.ensure_ports([nic])
        hypervisor.ensure_defined(spec)
        yield Machine(lab, hypervisor, datastore, network, image, disk, spec)
    finally:
        hypervisor.ensure_removed(spec.name)
        network.ensure_ports_removed([nic.device])
        datastore.ensure_removed([disk.file, seed_file(vm_id), image.file])


def test_overlay_finds_its_image_wherever_the_directory_is_mounted(machine: Machine) -> None:
    """The host has it at /srv/vdc/shared, this process elsewhere."""
    here = machine.lab.lab.datastore / machine.disk.file
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", "--backing-chain", str(here)], capture_output=True, check=True
    )
    top, base = json.loads(info.stdout)

    assert top["backing-filename"] == machine.image.file
    assert Path(base["filename"]) == machine.lab.lab.datastore / machine.image.file
    assert top["virtual-size"] == 32 * 2**20
    assert machine.hypervisor.ensure_started(machine.spec.name, paused=True)


def test_image_cannot_be_written_by_accident(machine: Machine) -> None:
    assert (machine.lab.lab.datastore / machine.image.file).stat().st_mode & 0o222 == 0


def test_hosts_own_libvirt_accepts_the_description(machine: Machine) -> None:
    conn = libvirt.open(machine.libvirt_uri)
    try:
        xml = conn.lookupByName(machine.spec.name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        conn.defineXMLFlags(xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    finally:
        conn.close()


def test_card_is_plugged_into_its_vlan(machine: Machine) -> None:
    machine.hypervisor.ensure_started(machine.spec.name, paused=True)
    device = nic_device(machine.spec.vm_id, 0)

    assert device in machine.network.read_ports()
    assert machine.on_host("ovs-vsctl", "--timeout=5", "get", "port", device, "tag").strip() == "123"

    machine.hypervisor.ensure_removed(machine.spec.name)
    assert machine.network.ensure_ports_removed([device])
    assert device not in machine.on_host("ls", "/sys/class/net").split()
    assert machine.on_host("ovs-ofctl", "--names", "dump-flows", "vdc-ovsbr0").count(device) == 0


def test_changed_description_is_defined_anew(machine: Machine) -> None:
    bigger = replace(machine.spec, memory_mib=64)

    assert not machine.hypervisor.ensure_defined(machine.spec)
    assert machine.hypervisor.ensure_defined(bigger)
    assert not machine.hypervisor.ensure_defined(bigger)
    assert "65536" in machine.on_host("virsh", "-c", "qemu:///system", "dominfo", machine.spec.name)


def test_removed_with_what_libvirt_keeps_beside_it(machine: Machine) -> None:
    conn = libvirt.open(machine.libvirt_uri)
    try:
        domain = conn.lookupByName(machine.spec.name)
        domain.create()
        domain.snapshotCreateXML("<domainsnapshot><name>s</name></domainsnapshot>")
        domain.managedSave()
    finally:
        conn.close()

    assert machine.hypervisor.ensure_removed(machine.spec.name)
    assert machine.hypervisor.ensure_defined(machine.spec)
    assert "no" in machine.on_host(
        "sh", "-c", 'virsh -c qemu:///system dominfo "$1" | grep "Managed save"', "sh", machine.spec.name
    )


def test_screen_listens_on_the_hosts_loopback_only(machine: Machine) -> None:
    machine.hypervisor.ensure_started(machine.spec.name, paused=True)

    display = machine.on_host("virsh", "-c", "qemu:///system", "vncdisplay", machine.spec.name).strip()

    assert display.startswith("127.0.0.1:")


def test_hundred_machines_are_listed_quickly(machine: Machine) -> None:
    specs = []
    for _ in range(100):
        vm_id = str(uuid.uuid4())
        specs.append(
            replace(machine.spec, name=domain_name(vm_id), vm_id=vm_id, disks=(), nics=(), seed_path=None)
        )
    try:
        for spec in specs:
            machine.hypervisor.ensure_defined(spec)
        started = time.perf_counter()
        seen = {domain.vm_id for domain in machine.hypervisor.read_domains()}
        took_s = time.perf_counter() - started
        assert seen >= {spec.vm_id for spec in specs}
        assert took_s < 1.0
    finally:
        for spec in specs:
            machine.hypervisor.ensure_removed(spec.name)
