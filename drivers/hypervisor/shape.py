"""How many CPUs, how much memory and disk a libvirt domain has, and changing that while it runs.

What a guest has to do itself (let go of a CPU, blow up its balloon) it may refuse, or never do: it is asked,
and what came of it is looked at.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence

import libvirt
from lxml import etree

from drivers.hypervisor.domain_xml import device_of
from drivers.hypervisor.power import Caller
from drivers.ssh import Ssh
from vdc.errors import Busy, DriverFailure
from vdc.model import DomainSpec, ShapeSeen

log = logging.getLogger(__name__)

MIB = 2**20
WATCH_S = 0.2
STILL_S = 10.0
"""A guest whose balloon has not moved for so long has none, or does not get any further."""

_UNPLUG_FAILED = (
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_INTERNAL_ERROR,
)


def read(domain: libvirt.virDomain, disks: Sequence[int]) -> ShapeSeen:
    """`disks` by index. Raises libvirtError."""
    on = domain.isActive() == 1
    # Of a domain that is off, what it would be started with.
    xml = etree.fromstring(domain.XMLDesc(0))
    most = int(xml.findtext("vcpu", "1"))
    vcpu = int(xml.find("vcpu").get("current", most))  # type: ignore[union-attr]
    fixed = len(xml.findall("vcpus/vcpu[@enabled='yes'][@hotpluggable='no']"))
    return ShapeSeen(
        running=on,
        vcpu=vcpu,
        min_vcpu=fixed or vcpu,
        max_vcpu=most,
        memory_mib=_memory_kib(domain, on) // 1024,
        max_memory_mib=domain.maxMemory() // 1024,
        disks_mib=tuple(domain.blockInfo(device_of(n))[0] // MIB for n in disks),
    )


def _memory_kib(domain: libvirt.virDomain, on: bool) -> int:
    if not on:
        return int(domain.info()[2])
    # An emulator may round up what it was asked for, and its balloon tells that.
    return min(int(domain.memoryStats()["actual"]), int(domain.maxMemory()))


def plug(call: Caller, name: str, vcpu: int, timeout_s: float) -> None:
    """Plug vCPUs in, or unplug them, if that is within what it was started with.

    A guest that has not let go of them by the deadline keeps them.
    """

    def ask(conn: libvirt.virConnect) -> bool:
        domain = conn.lookupByName(name)
        seen = read(domain, ())
        if not seen.min_vcpu <= vcpu <= seen.max_vcpu or vcpu == seen.vcpu:
            return True
        try:
            domain.setVcpusFlags(vcpu, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            if vcpu > seen.vcpu or error.get_error_code() not in _UNPLUG_FAILED:
                raise
            log.info("The guest of %s does not let go of its CPUs yet: %s", name, error)
            return False
        return True

    deadline = time.monotonic() + timeout_s
    # libvirt waits five seconds, one CPU after the other; a busy guest may take longer.
    while not call(f"changing the CPUs of {name}", ask) and time.monotonic() < deadline:
        time.sleep(WATCH_S)


def balloon(call: Caller, name: str, memory_mib: int, timeout_s: float) -> None:
    """Have the guest give memory back, or take it; one that does not keeps what it had."""

    def ask(conn: libvirt.virConnect) -> int | None:
        domain = conn.lookupByName(name)
        before = _memory_kib(domain, True)
        if memory_mib * 1024 == before or memory_mib * 1024 > domain.maxMemory():
            return None
        domain.setMemoryFlags(memory_mib * 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        return before

    def look(conn: libvirt.virConnect) -> int:
        return _memory_kib(conn.lookupByName(name), True)

    before = call(f"asking the guest of {name} for memory", ask)
    if before is None:
        return
    deadline, moved_at, last = time.monotonic() + timeout_s, time.monotonic(), before
    while (now := call(f"looking at the memory of {name}", look)) != memory_mib * 1024:
        if now != last:
            last, moved_at = now, time.monotonic()
        if time.monotonic() > deadline or time.monotonic() > moved_at + min(STILL_S, timeout_s):
            log.info("The balloon of %s stands at %d KiB", name, now)
            call(
                f"leaving {name} its memory",
                lambda conn: conn.lookupByName(name).setMemoryFlags(before, libvirt.VIR_DOMAIN_AFFECT_LIVE),
            )
            return
        time.sleep(WATCH_S)


def grow_running(domain: libvirt.virDomain, index: int, size_mib: int) -> bool:
    """Raises libvirtError."""
    if domain.blockInfo(device_of(index))[0] >= size_mib * MIB:
        return False
    domain.blockResize(device_of(index), size_mib * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    return True


def grow_file(ssh: Ssh, spec: DomainSpec, index: int, size_mib: int) -> bool:
    """Raises Busy where a guest has the file open."""
    disk = spec.disks[index]
    of = ["-f", disk.format, "--", disk.path]
    told = ssh.run(["qemu-img", "info", "-U", "--output=json", *of], what=f"reading disk {disk.path}")
    if json.loads(told)["virtual-size"] >= size_mib * MIB:
        return False
    try:
        ssh.run(["qemu-img", "resize", "-q", *of, f"{size_mib}M"], what=f"growing disk {disk.path}")
    except DriverFailure as error:
        if '"write" lock' in error.stderr:
            raise Busy(str(error)) from error
        raise
    return True
