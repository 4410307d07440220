"""A bench on a real host of a lab: see bench.py."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import libvirt

from deployments.lab.state import SHARED_DATASTORE
from drivers import ssh as ssh_module
from tests.contract.bench import MIB, Bench
from tests.lab_fixture import LabAccess
from vdc.model import HostRef


class LabBench(Bench):
    """A bench on the first host of a lab, in a directory of the shared datastore of its own."""

    def __init__(
        self, lab: LabAccess, directory: Path, *, datastore: str = "qcow2", network: str = "vlan"
    ) -> None:
        self._lab = lab
        name = f"contract-{secrets.token_hex(4)}"
        shared = lab.lab.datastore / name
        shared.mkdir()
        bridge = {"vlan": "ovsbr0", "bridge": "br0"}[network]
        hand = LabHand(lab, shared, network, bridge)
        super().__init__(
            lab.host("h1"),
            lab.access,
            f"{datastore}://{SHARED_DATASTORE}/{name}",
            f"{network}://{bridge}",
            hand,
            directory,
        )

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
    """The second hand on a lab's first host."""

    def __init__(self, lab: LabAccess, shared: Path, network: str, bridge: str) -> None:
        self._ssh = ssh_module.connection(lab.host("h1"), lab.access)
        self._uri = lab.host("h1").uri
        self._shared = shared
        self._network = network
        self._openvswitch = network == "vlan"
        self._bridge = bridge
        self._ports: list[str] = []
        self._domains: list[str] = []
        self._loose = f"lo{secrets.token_hex(4)}"

    def _run(self, *argv: str) -> None:
        self._ssh.run(list(argv), what="preparing a contract test")

    def plant_loose_bridge(self) -> str:
        if self._openvswitch:
            self._run(
                "ovs-vsctl", "add-br", self._loose, "--", "set", "bridge", self._loose, "datapath_type=netdev"
            )
        else:
            self._run("ip", "link", "add", self._loose, "type", "bridge")
        return f"{self._network}://{self._loose}"

    def plant_file(self, file: str, size: int) -> None:
        (self._shared / file).write_bytes(b"x" * size)

    def plant_port(self, device: str) -> None:
        self._ports.append(device)
        if self._openvswitch:
            self._run(
                *("ovs-vsctl", "add-port", self._bridge, device, "tag=100"),
                *("--", "set", "interface", device, "type=internal"),
            )
        else:
            self._run("ip", "tuntap", "add", "dev", device, "mode", "tap")
            self._run("ip", "link", "set", device, "master", self._bridge)

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

    def virtual_size_mib(self, file: str) -> int:
        info = subprocess.run(
            ["qemu-img", "info", "--output=json", "-U", str(self._shared / file)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        size: int = json.loads(info.stdout)["virtual-size"]
        return size // MIB

    def holds_image(self, file: str, source: Path) -> bool:
        compared = subprocess.run(
            ["qemu-img", "compare", "-U", str(self._shared / file), str(source)],
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        return compared.returncode == 0  # a longer disk counts as equal if the rest is zeros

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
        else:
            for device in (*self._ports, self._loose):
                self._run("sh", "-c", 'ip link delete dev "$1" 2>/dev/null || true', "sh", device)
        shutil.rmtree(self._shared)
