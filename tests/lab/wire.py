"""Frames at a port of ours, without a guest: what would be sent by one, and what it would get."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from types import TracebackType

from drivers import registry
from drivers.contract import Network
from tests.lab_fixture import LabAccess
from vdc.model import NicSpec, Rule, VnetSpec, nic_device

_HOLD = """
import fcntl, os, struct, sys, threading
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH", sys.argv[1].encode(), 0x1002))
def tell():
    while True:
        print(os.read(tap, 2048).hex(), flush=True)
print("holds", flush=True)
threading.Thread(target=tell, daemon=True).start()
for line in sys.stdin:
    os.write(tap, bytes.fromhex(line))
"""
BROADCAST = "ff:ff:ff:ff:ff:ff"


class Card:
    """A guest's end of a tap device; `inside` leads a command into its host."""

    def __init__(self, inside: Sequence[str], device: str) -> None:
        self._process = subprocess.Popen(
            [*inside, sys.executable, "-c", _HOLD, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._got: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        assert self._got.get(timeout=30) == "holds"

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._got.put(line.strip())

    def send(self, frame: bytes) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{frame.hex()}\n")

    def until(self, last: bytes, timeout_s: float = 20.0) -> list[bytes]:
        """What came before `last` did, apart from the host's own talk (IPv6)."""
        seen = []
        while (frame := bytes.fromhex(self._got.get(timeout=timeout_s))) != last:
            if frame[12:14] != b"\x86\xdd":
                seen.append(frame)
        return seen

    def __enter__(self) -> Card:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate(timeout=10)


class Ports:
    """Cards of networks on both hosts, with a wire in each; all gone at the end."""

    def __init__(self, lab: LabAccess, stack: ExitStack) -> None:
        self._lab = lab
        self._stack = stack
        self.nics: dict[tuple[str, str, str], NicSpec] = {}
        """By host, network's id and address."""

    def network(self, host: str, uri: str) -> Network:
        return registry.network(uri, self._lab.host(host), self._lab.access)

    def run(self, host: str, *argv: str) -> None:
        """A command on the host."""
        subprocess.run([*self._inside(host), "-m", *argv], check=True, timeout=30)

    def plug(
        self, host: str, vnet: VnetSpec, mac: str, address: str, rules: tuple[Rule, ...] | None = None
    ) -> tuple[Card, tuple[str, str]]:
        """The card, and its (MAC, address)."""
        nic = NicSpec(0, vnet, nic_device(str(uuid.uuid4()), 0), mac, address, rules)
        network = self.network(host, vnet.uri)
        network.ensure_network(vnet)
        assert network.ensure_ports([nic])
        self._stack.callback(network.ensure_ports_removed, [nic.device])
        self.nics[host, vnet.vnet_id, address] = nic
        return self._stack.enter_context(Card(self._inside(host), nic.device)), (mac, address)

    def _inside(self, host: str) -> list[str]:
        return ["nsenter", "-t", str(self._lab.lab.host(host).pid), "-n"]


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def udp(source: tuple[str, str], target: tuple[str, str], text: str, *tags: int) -> bytes:
    """A frame from (MAC, address) to another one, port 4000 to 4000, with these VLAN tags around."""
    datagram = (4000).to_bytes(2) * 2 + (8 + len(text)).to_bytes(2) + b"\0\0" + text.encode()
    addresses = ip_address(source[1]).packed + ip_address(target[1]).packed
    header = b"\x45\0" + (20 + len(datagram)).to_bytes(2) + b"\0\0\0\0\x40\x11"
    words = header + addresses
    total = sum(int.from_bytes(words[at : at + 2]) for at in range(0, len(words), 2))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = 0xFFFF - ((total & 0xFFFF) + (total >> 16))
    return _ethernet(
        source[0], target[0], tags, b"\x08\0", header + checksum.to_bytes(2) + addresses + datagram
    )


def arp(source: tuple[str, str], asked: str, *tags: int) -> bytes:
    """The question who has an address."""
    mac, address = mac_bytes(source[0]), ip_address(source[1]).packed
    body = b"\0\1\x08\0\6\4\0\1" + mac + address + bytes(6) + ip_address(asked).packed
    return _ethernet(source[0], BROADCAST, tags, b"\x08\6", body)


def _ethernet(source: str, target: str, tags: Sequence[int], kind: bytes, body: bytes) -> bytes:
    tagged = b"".join(b"\x81\0" + tag.to_bytes(2) for tag in tags)
    # As long as the shortest frame is, so that nothing on the way fills it up.
    return (mac_bytes(target) + mac_bytes(source) + tagged + kind + body).ljust(60, b"\0")
