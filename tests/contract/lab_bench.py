"""A bench on a real host of a lab: see bench.py."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import libvirt

from deployments.lab.layout import FILES
from deployments.lab.state import LOCAL_DATASTORE, SHARED_DATASTORE
from drivers import ssh as ssh_module
from drivers.network import vxlan
from tests.contract.bench import MIB, Bench, Hand
from tests.lab_fixture import LabAccess
from vdc.model import DomainSpec, HostRef

MARK_AT = "4M"
DISK = "/machine/peripheral/virtio-disk0/virtio-backend"
CHIP_BYTE = "0x60"


class LabBench(Bench):
    """A bench on the first host of a lab, in a directory of its own."""

    def __init__(
        self, lab: LabAccess, directory: Path, *, datastore: str = "qcow2", network: str = "vlan://{}"
    ) -> None:
        self._lab = lab
        name = f"contract-{secrets.token_hex(4)}"
        uri = f"{datastore}://{SHARED_DATASTORE}/{name}"
        self._directories = [lab.lab.datastore / name]
        if datastore == "local":
            uri = f"local://{LOCAL_DATASTORE}/{name}?images={directory / 'images'}"
            of_lab = lab.lab.home / "lab" / lab.lab.lab_id
            self._directories = [of_lab / host / "local" / name for host in ("h1", "h2")]
        if datastore == "nfs":
            uri = f"{lab.file_server()}/{name}"
            self._directories = [lab.lab.home / "lab" / lab.lab.lab_id / FILES / "local" / name]
        for made in self._directories:
            made.mkdir()
        # What the URI names on the host.
        named = {"bridge": "br0", "vxlan": "eth0"}.get(network.partition(":")[0], "ovsbr0")
        self._network, self._named = network, named
        # Where QEMU finds what a disk on the file server rests on.
        self._inside = ["ip", "netns", "exec", f"vdc-{lab.lab.lab_id}-{FILES}"] if datastore == "nfs" else []
        hand = self._hand("h1", self._directories[0])
        super().__init__(lab.host("h1"), lab.access, uri, network.format(named), hand, directory)

    def second_hand(self) -> Hand:
        return self._hand("h2", self._directories[-1])

    def _hand(self, host: str, directory: Path) -> LabHand:
        return LabHand(self._lab, host, directory, self._network, self._named, self._inside)

    def close(self) -> None:
        super().close()
        for made in self._directories:
            shutil.rmtree(made)

    def reads_as(self, disk: Path, source: Path) -> bool:
        info = subprocess.run(
            ["qemu-img", "info", "--output=json", str(disk)], capture_output=True, check=True, timeout=60
        )
        told = json.loads(info.stdout)
        compare = ["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", str(disk), str(source)]
        same = subprocess.run(compare, timeout=60).returncode == 0
        return same and told["format"] == "qcow2" and "backing-filename" not in told

    def second_host(self) -> HostRef:
        return self._lab.host("h2")

    def unreachable_host(self) -> HostRef:
        """A loopback port on which nobody listens: never a foreign address."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        uri = self.host.uri.replace(
            f"{self._lab.lab.host('h1').address}:{self._lab.lab.host('h1').port}", f"127.0.0.1:{port}"
        )
        return replace(self.host, name="nobody", uri=uri)


class LabHand:
    """The second hand on a host of a lab; `directory` is that of the datastore, as seen from here.

    `inside` leads a command that opens a disk.
    """

    def __init__(
        self,
        lab: LabAccess,
        host: str,
        directory: Path,
        network: str,
        named: str,
        inside: Sequence[str] = (),
    ) -> None:
        self._inside = inside
        self._ssh = ssh_module.connection(lab.host(host), lab.access)
        self._uri = lab.host(host).uri
        self._directory = directory
        self._network = network
        self._openvswitch = not network.startswith("bridge:")
        self._tunnels = network.startswith("vxlan:")
        # Where ports are plugged in, and where those of ours are.
        self._bridge = vxlan.bridge_of(network.format(named)) if self._tunnels else named
        self._inner = self._bridge if self._tunnels else f"vdc-{named}"
        self._ports: list[str] = []
        self._domains: list[str] = []
        self._loose = f"lo{secrets.token_hex(4)}"

    def _run(self, *argv: str) -> None:
        self._ssh.run(list(argv), what="preparing a contract test")

    def plant_loose_bridge(self) -> str:
        if self._openvswitch and not self._tunnels:
            self._run(
                "ovs-vsctl", "add-br", self._loose, "--", "set", "bridge", self._loose, "datapath_type=netdev"
            )
        else:
            self._run("ip", "link", "add", self._loose, "type", "bridge")
        return self._network.format(self._loose)

    def damage(self, file: str) -> None:
        """Its first block of reference counts, found by its header (docs/interop/qcow2.txt of QEMU)."""
        with (self._directory / file).open("r+b") as image:
            image.seek(48)
            table = int.from_bytes(image.read(8), "big")
            image.seek(table)
            image.seek(int.from_bytes(image.read(8), "big"))
            image.write(b"\0" * 16)

    def plant_file(self, file: str, size: int) -> None:
        (self._directory / file).write_bytes(b"x" * size)

    def plant_port(self, device: str) -> None:
        self._ports.append(device)
        if self._openvswitch:
            if self._tunnels:  # its bridge is there once a network is
                self._run(
                    *("ovs-vsctl", "--may-exist", "add-br", self._bridge),
                    *("--", "set", "bridge", self._bridge, "datapath_type=netdev", "fail_mode=secure"),
                )
            self._run(
                *("ovs-vsctl", "add-port", self._bridge, device, "tag=100"),
                *("--", "set", "interface", device, "type=internal"),
            )
        else:
            self._run("ip", "tuntap", "add", "dev", device, "mode", "tap")
            self._run("ip", "link", "set", device, "master", self._bridge)

    def loosen(self, device: str) -> None:
        if self._openvswitch:
            self._run("ovs-ofctl", "del-flows", self._inner, f"in_port={device}")
        else:
            self._run("nft", "delete", "element", "bridge", "vdc", "cards", f'{{ "{device}" }}')

    def forget_peer(self, peer: str) -> None:
        script = (
            'for port in $(ovs-vsctl list-ports "$1" | grep ^vx); do '
            'bridge fdb delete 00:00:00:00:00:00 dev "$port" dst "$2"; done'
        )
        self._run("sh", "-ec", script, "sh", self._inner, peer)

    def plant_domain(self, name: str) -> None:
        self._domains.append(name)
        xml = (
            f"<domain type='qemu'><name>{name}</name><memory>32768</memory><os><type>hvm</type></os></domain>"
        )
        connection = libvirt.open(self._uri)
        try:
            connection.defineXML(xml)
        finally:
            connection.close()

    def silence(self, name: str) -> None:
        """There is no system on the disk, thus nobody who would listen."""

    def harden(self, name: str) -> None:
        """There is no system on the disk, thus no driver of a balloon."""

    def virtual_size_mib(self, file: str) -> int:
        info = subprocess.run(
            [*self._inside, "qemu-img", "info", "--output=json", "-U", str(self._directory / file)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        size: int = json.loads(info.stdout)["virtual-size"]
        return size // MIB

    def holds_image(self, file: str, source: Path) -> bool:
        compared = subprocess.run(
            [*self._inside, "qemu-img", "compare", "-U", str(self._directory / file), str(source)],
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        return compared.returncode == 0  # a longer disk counts as equal if the rest is zeros

    def power_off(self, spec: DomainSpec) -> None:
        self._run("virsh", "destroy", spec.name)

    def write_disk(self, spec: DomainSpec, value: int) -> None:
        self._qemu_io(spec, f"write -P {value} {MARK_AT} 512")

    def read_disk(self, spec: DomainSpec) -> int:
        if self._is_on(spec):
            self._qemu_io(spec, "flush")
        told = self._in_file(spec, "-U", "-r", "-c", f"read -v {MARK_AT} 16")
        return int(told.split(":")[1].split()[0], 16)  # "00400000:  2a 2a 2a ..."

    def _qemu_io(self, spec: DomainSpec, command: str) -> None:
        """By QEMU itself while the machine is on."""
        if self._is_on(spec):
            self._monitor(spec, f'qemu-io -d {DISK} "{command}"')
        else:
            self._in_file(spec, "-c", command)

    def _in_file(self, spec: DomainSpec, *argv: str) -> str:
        command = [*self._inside, "qemu-io", *argv, str(self._directory / Path(spec.disks[0].path).name)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    def _is_on(self, spec: DomainSpec) -> bool:
        return self._virsh("domstate", spec.name).strip() != "shut off"

    def write_memory(self, spec: DomainSpec, value: int) -> None:
        """A byte of the clock chip's memory that nobody uses: it is QEMU's, so part of the machine's state.

        A BIOS that is starting selects other bytes between our two steps: try until it is there.
        """
        deadline = time.monotonic() + 30
        while self._read_chip(spec) != value:
            assert time.monotonic() < deadline, "the machine's clock chip keeps nothing"
            self._monitor(spec, f"o /b 0x70 {CHIP_BYTE}")
            self._monitor(spec, f"o /b 0x71 {value}")

    def read_memory(self, spec: DomainSpec) -> int:
        before, now = -1, self._read_chip(spec)
        while before != now:
            before, now = now, self._read_chip(spec)
        return now

    def _read_chip(self, spec: DomainSpec) -> int:
        self._monitor(spec, f"o /b 0x70 {CHIP_BYTE}")
        return int(self._monitor(spec, "i /b 0x71").split("=")[1], 16)  # "portb[0x0071] = 0x2a"

    def _monitor(self, spec: DomainSpec, command: str) -> str:
        return self._virsh("qemu-monitor-command", spec.name, "--hmp", command)

    def _virsh(self, *argv: str) -> str:
        return self._ssh.run(["virsh", *argv], what="looking at a contract test").decode()

    def close(self) -> None:
        if self._domains:
            connection = libvirt.open(self._uri)
            try:
                for name in self._domains:
                    connection.lookupByName(name).undefine()
            finally:
                connection.close()
        if self._openvswitch:
            for device in self._ports:
                self._run("ovs-vsctl", "--if-exists", "del-port", self._bridge, device)
            self._run("ovs-vsctl", "--if-exists", "del-br", self._loose)
        links = [*self._ports, self._loose] if not self._openvswitch else [self._loose] * self._tunnels
        for device in links:
            remove = '[ ! -e "/sys/class/net/$1" ] || ip link delete dev "$1"'
            self._run("sh", "-c", remove, "sh", device)
