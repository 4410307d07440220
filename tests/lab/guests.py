"""Machines for the lab's own tests: plain libvirt-python and the least XML, independent of our drivers."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import libvirt

from deployments.lab.probe import Probe
from deployments.lab.state import SHARED_DATASTORE, Lab
from drivers.seed import build_seed
from vdc.model import ContextSpec, NicSpec, VnetSpec

BOOT_TIMEOUT_S = 150.0
"""Some seconds on a quiet machine, a minute when all its cores are busy."""

Result = TypeVar("Result")


def wait_for(look: Callable[[], Result | None], what: str, timeout_s: float = 30.0) -> Result:
    """The first answer of `look` that is true. Fails the test at the deadline.

    Who waits long looks less often: to look is to start processes, which take the time from what is awaited.
    """
    begun = time.monotonic()
    while not (seen := look()):
        waited = time.monotonic() - begun
        assert waited < timeout_s, f"{what}: not within {timeout_s:g} s"
        time.sleep(min(0.5, 0.05 + waited / 20))
    return seen


def on_disk(file: Path, at: int, count: int) -> bytes:
    """`count` bytes, at most 16, of what a guest sees on a qcow2 file, also while it runs."""
    command = ["qemu-io", "-U", "-r", "-f", "qcow2", "-c", f"read -v {at} {count}", str(file)]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return bytes.fromhex("".join(told.split(":")[1].split()[:count]))  # "00400000:  2a 2a 2a ..."


@dataclass(frozen=True, slots=True)
class Guest:
    name: str
    domain: Any
    lab: Lab

    def console(self) -> str:
        """What it wrote on the serial port since it started on its present host."""
        return (self.lab.datastore / f"{self.name}.log").read_text(errors="replace")


def says(probe: Probe, address: str) -> dict[str, str]:
    """What the guest at an address says of itself, or {} while it does not answer."""
    body = probe.fetch(address, timeout_s=2)
    return dict(line.split("=", 1) for line in body.splitlines()) if body else {}


def type_into(probe: Probe, address: str, key_file: Path, command: str) -> str | None:
    """What a command prints that is run in the guest, over SSH; None where it was not let in, or failed."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10")
    argv = ["ssh", "-F", "/dev/null", "-i", str(key_file)]
    argv += [word for option in options for word in ("-o", option)]
    done = probe.run([*argv, f"root@{address}", command], timeout_s=60)
    return done.stdout if done.returncode == 0 else None


class GuestMaker:
    """Starts guests and remembers them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.connections = {host.name: libvirt.open(host.uri) for host in lab.hosts}

    def start(
        self, name: str, host: str, nics: Sequence[NicSpec], context: ContextSpec | None = None
    ) -> Guest:
        store = self.lab.datastore
        overlay = [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-b",
            "base.qcow2",
            "-F",
            "qcow2",
            f"{name}.qcow2",
        ]
        subprocess.run(overlay, cwd=store, check=True)
        (store / f"{name}.iso").write_bytes(
            build_seed(context or ContextSpec(name), f"id-{name}", tuple(nics))
        )
        (store / f"{name}.log").unlink(missing_ok=True)
        return Guest(name, self.connections[host].createXML(_xml(name, nics)), self.lab)

    def remove_all(self) -> None:
        for connection in self.connections.values():
            for domain in connection.listAllDomains():
                domain.destroy()
            connection.close()


def vlan(number: int, cidr: str) -> VnetSpec:
    return VnetSpec(f"v{number}", f"v{number}", "vlan://ovsbr0", number, cidr)


def flat(cidr: str) -> VnetSpec:
    return VnetSpec("flat", "flat", "bridge://br0", None, cidr)


def nic(index: int, vnet: VnetSpec, address: str, last: int) -> NicSpec:
    return NicSpec(index, vnet, f"vd-test-{last}-{index}", f"52:54:00:00:{index:02x}:{last:02x}", address)


def _xml(name: str, nics: Sequence[NicSpec]) -> str:
    off = "csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off'"
    cards = ""
    for card in nics:
        tagged = f"<virtualport type='openvswitch'/><vlan><tag id='{card.vnet.vlan_id}'/></vlan>"
        cards += f"""
    <interface type='bridge'><mac address='{card.mac}'/><source bridge='{card.vnet.uri.partition("://")[2]}'/>
      {tagged if card.vnet.vlan_id else ""}<model type='virtio'/>
      <driver name='qemu'><host {off}/><guest {off.replace("gso='off'", "")}/></driver></interface>"""
    return f"""
<domain type='qemu'>
  <name>{name}</name><memory unit='MiB'>96</memory><vcpu>1</vcpu>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os><features><acpi/><apic/></features>
  <devices>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/>
      <source file='{SHARED_DATASTORE}/{name}.qcow2'/><target dev='vda' bus='virtio'/></disk>
    <disk type='file' device='cdrom'><driver name='qemu' type='raw'/>
      <source file='{SHARED_DATASTORE}/{name}.iso'/><target dev='hda' bus='ide'/><readonly/></disk>{cards}
    <serial type='file'><source path='{SHARED_DATASTORE}/{name}.log'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <video><model type='none'/></video>
  </devices>
</domain>"""
