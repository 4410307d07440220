"""What a contract test needs beside the drivers: material, and a second hand on the same host.

A `Bench` is a host with one hypervisor, datastore and network driver on it: a real one (lab_bench.py) or a
simulated one (simulated_bench.py); the tests cannot tell which they got.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import shutil
import subprocess
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from drivers import registry
from drivers.contract import Access, Datastore, Hypervisor, Network
from vdc.model import (
    DiskAttachment,
    DiskSpec,
    DomainSpec,
    HostRef,
    ImageSpec,
    NicSpec,
    VnetSpec,
    disk_file,
    domain_name,
    nic_device,
    seed_file,
)

IMAGE_MIB = 1
BOOT_SECTOR = bytes.fromhex("fa f4 eb fd").ljust(510, b"\0") + bytes.fromhex("55 aa")
"""Interrupts off, halt, and halt again: a guest that costs nothing once it runs."""
MIB = 1024 * 1024


@dataclass(frozen=True)
class Machine:
    """All that the drivers need to make one machine."""

    vm_id: str
    disk: DiskSpec
    seed: str
    vnet: VnetSpec
    nic: NicSpec
    spec: DomainSpec


@dataclass(frozen=True)
class Drivers:
    """The drivers of one host."""

    hypervisor: Hypervisor
    datastore: Datastore
    network: Network


class Hand(Protocol):
    """The second hand: does to the host what no driver would."""

    def plant_file(self, file: str, size: int) -> None:
        """Put a file into the datastore's directory."""

    def damage(self, file: str) -> None:
        """Write over what the format keeps of a qcow2 file's clusters."""

    def plant_port(self, device: str) -> None:
        """Plug a device, which no domain uses, into the switch."""

    def loosen(self, device: str) -> None:
        """Take the rules of a port away."""

    def plant_loose_bridge(self) -> str:
        """Make a bridge that leads nowhere; returns the URI of a network on it."""

    def forget_peer(self, peer: str) -> None:
        """Take the way to another host from the networks that are here."""

    def plant_domain(self, name: str) -> None:
        """Define a domain as somebody else would."""

    def silence(self, name: str) -> None:
        """See to it that the guest does not listen to the power button."""

    def harden(self, name: str) -> None:
        """See to it that the guest gives neither memory nor CPUs back."""

    def virtual_size_mib(self, file: str) -> int:
        """The size that a guest would see."""

    def holds_image(self, file: str, source: Path) -> bool:
        """Whether a guest would read the bytes of `source` at the disk's beginning."""

    def power_off(self, spec: DomainSpec) -> None:
        """Pull the plug."""

    def write_disk(self, spec: DomainSpec, value: int) -> None:
        """A byte on the machine's disk, as its guest would write it; also while it is off."""

    def read_disk(self, spec: DomainSpec) -> int: ...

    def write_memory(self, spec: DomainSpec, value: int) -> None:
        """A byte that a running machine forgets when it is powered off (it reads 0 then)."""

    def read_memory(self, spec: DomainSpec) -> int: ...

    def close(self) -> None:
        """Take back what was planted."""


class Bench:
    """A host with drivers, a hand, and material to work with."""

    def __init__(
        self,
        host: HostRef,
        access: Access,
        datastore_uri: str,
        network_uri: str,
        hand: Hand,
        directory: Path,
    ) -> None:
        self.host = host
        self.access = access
        self.drivers = self._drivers_on(host, datastore_uri, network_uri)
        self.hand = hand
        self._datastore_uri = datastore_uri
        self._network_uri = network_uri
        self._made: list[Machine] = []
        self._plugged: list[tuple[Network, str]] = []
        self.source, self.image = _image(directory)

    def _drivers_on(self, host: HostRef, datastore_uri: str, network_uri: str) -> Drivers:
        return Drivers(
            registry.hypervisor(host, self.access),
            registry.datastore(datastore_uri, host, self.access),
            registry.network(network_uri, host, self.access),
        )

    def on(self, host: HostRef) -> Drivers:
        """The same datastore and switch, worked on from another host."""
        return self._drivers_on(host, self._datastore_uri, self._network_uri)

    def second_host(self) -> HostRef:
        """A host that mounts the same datastore, if it is a shared one."""
        raise NotImplementedError

    def second_hand(self) -> Hand:
        """The hand of the second host, where it has a part of the datastore of its own."""
        raise NotImplementedError

    def unreachable_host(self) -> HostRef:
        """A host that is known and does not answer."""
        raise NotImplementedError

    def reads_as(self, disk: Path, source: Path) -> bool:
        """Whether a guest would read of a local file what it would of another, and it needs no third one."""
        raise NotImplementedError

    def network_without_uplink(self) -> Network:
        return registry.network(self.hand.plant_loose_bridge(), self.host, self.access)

    def vnet(self) -> VnetSpec:
        vlan_id = 100 if self.drivers.network.capabilities.vlan else None
        return VnetSpec("contract", "contract", self._network_uri, vlan_id, "10.99.0.0/24")

    def disk(self, file: str, size_mib: int = 8, *, blank: bool = False) -> DiskSpec:
        disk_format = self.drivers.datastore.capabilities.disk_format
        return DiskSpec(0, self._datastore_uri, file, disk_format, size_mib, None if blank else self.image)

    def device(self) -> str:
        """Of a network card that no other test uses."""
        return nic_device(str(uuid.uuid4()), 0)

    def machine(self, **changes: object) -> Machine:
        """A machine of its own for every test; `changes` are to its DomainSpec."""
        vm_id = str(uuid.uuid4())
        datastore, network = self.drivers.datastore, self.drivers.network
        disk = self.disk(disk_file(vm_id, 0, datastore.capabilities.disk_format))
        vnet = self.vnet()
        mac = f"52:54:00:{':'.join(f'{byte:02x}' for byte in secrets.token_bytes(3))}"
        nic = NicSpec(0, vnet, nic_device(vm_id, 0), mac, "10.99.0.5")
        spec = DomainSpec(
            name=domain_name(vm_id),
            vm_id=vm_id,
            vm_name="web",
            tenant="acme",
            site="contract",
            domain_type=self.host.domain_type,
            arch=self.host.arch,
            vcpu=1,
            memory_mib=32,
            disks=(DiskAttachment(datastore.path(disk.file), disk.format),),
            seed_path=datastore.path(seed_file(vm_id)),
            nics=(network.attachment(vnet, nic),),
        )
        made = Machine(vm_id, disk, seed_file(vm_id), vnet, nic, replace(spec, **changes))  # type: ignore[arg-type]
        self._made.append(made)
        return made

    def provide(self, machine: Machine) -> None:
        """All that a machine needs before it is started."""
        self.drivers.datastore.ensure_image(self.image, self.source)
        self.drivers.datastore.ensure_disk(machine.disk)
        self.drivers.datastore.ensure_seed(machine.seed, b"seed" * 512)
        self.plug_in(machine.nic)
        self.drivers.hypervisor.ensure_defined(machine.spec)

    def plug_in(self, nic: NicSpec, on: Drivers | None = None) -> bool:
        """Make the card's port, on this host or another one: whether this call did it. `close` removes it."""
        network = (on or self.drivers).network
        self._plugged.append((network, nic.device))
        network.ensure_network(nic.vnet)
        return network.ensure_ports([nic])

    def close(self) -> None:
        for machine in self._made:
            self.drivers.hypervisor.ensure_removed(machine.spec.name)
        for network, device in self._plugged:
            network.ensure_ports_removed([device])
        self.hand.close()


def _image(directory: Path) -> tuple[Path, ImageSpec]:
    """A small disk image with bytes in it: qcow2 where there is qemu-img, else (simulated only) bytes.

    A guest halts in its boot sector: without one its BIOS would go on to look for a system in the network.
    """
    raw, source = directory / "source.raw", directory / "source.qcow2"
    raw.write_bytes(BOOT_SECTOR + random.Random(7).randbytes(IMAGE_MIB * MIB - len(BOOT_SECTOR)))
    if shutil.which("qemu-img"):
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(source)]
        subprocess.run(convert, check=True, timeout=60)
    else:
        source.write_bytes(raw.read_bytes())
    checksum = hashlib.sha256(source.read_bytes()).hexdigest()
    return source, ImageSpec("contract", "image-contract.qcow2", "qcow2", IMAGE_MIB, checksum)
