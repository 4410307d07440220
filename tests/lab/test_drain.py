"""A real host is emptied while its machines are in use, and nobody's frames go astray meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from deployments.lab.probe import Probe, open_probe
from tests.flows import run
from tests.lab.datacenter import VLAN, Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from vdc import specs
from vdc.claims.hosts import set_enabled
from vdc.errors import OperationFailed
from vdc.inventory import read_session, write_session
from vdc.schema import Vm

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

RUNNING = ("web", "still-1", "still-2")


def enable(place: Datacenter, host: str, wanted: bool) -> None:
    with write_session(place.url) as session:
        set_enabled(session, host, wanted, actor="test")


def answer(place: Datacenter, probe: Probe, name: str) -> dict[str, str]:
    """What the machine says of itself, once it does."""
    with read_session(place.url) as session:
        address = specs.load(session.query(Vm.spec).filter(Vm.name == name).scalar()).nics[0].address
    return wait_for(lambda: says(probe, address), f"{name} answers", BOOT_TIMEOUT_S)


SNIFF = """
import socket, struct, sys, threading
card = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL, packet(7)
card.bind(("eth0", 0))
promiscuous = struct.pack("iHH8s", socket.if_nametoindex("eth0"), 1, 0, b"")
card.setsockopt(263, 1, promiscuous)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
over = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
card.settimeout(0.2)
seen = set()
print("listening", flush=True)
while not over.is_set():
    try:
        seen.add(card.recv(2048)[6:12].hex(":"))
    except TimeoutError:
        pass
print(" ".join(sorted(seen)))
"""


@contextmanager
def senders(probe: Probe) -> Iterator[set[str]]:
    """MAC addresses from which frames reach a probe while the block runs, complete when it is over."""
    command = probe.command([sys.executable, "-c", SNIFF])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "listening\n"
            seen: set[str] = set()
            yield seen
            told, _ = process.communicate(timeout=30)
            seen |= set(told.split())
        finally:
            process.kill()


def _came_live(place: Datacenter, host: str, domain: str) -> bool:
    """Whether the domain's QEMU there took over from one that ran elsewhere, as libvirt remembers it."""
    told = place.on_host(host, "virsh", "domjobinfo", "--completed", "--keep-completed", domain)
    return re.search(r"^Operation: +Incoming migration$", told, re.MULTILINE) is not None


def test_drained_while_in_use(clean: Datacenter) -> None:
    """One of them is a system that answers; of the others nothing is asked but that they go on."""
    place = clean
    enable(place, "h2", False)
    run.deploy(name="web")
    run.deploy(name="still", count=2, template="still")
    run.deploy(name="off", template="still", start="stopped")
    enable(place, "h2", True)
    probe = open_probe(place.lab.lab.lab_id, VLAN, "10.3.0.250/24")
    neighbour = open_probe(place.lab.lab.lab_id, VLAN + 1, "10.3.0.250/24")
    before = answer(place, probe, "web")

    with senders(probe) as own_vlan, senders(neighbour) as other_vlan:
        run.drain("h1")
    assert place.domains()["h1"] == set()
    place.assert_agrees()
    assert answer(place, probe, "web")["boot_id"] == before["boot_id"], "it was not started again"
    with read_session(place.url) as session:
        rows = session.query(Vm).filter(Vm.name.in_(RUNNING)).all()
        macs = {nic.mac for vm in rows for nic in specs.load(vm.spec).nics}
        domains = {vm.name: specs.load(vm.spec).domain for vm in session.query(Vm)}
    assert all(_came_live(place, "h2", domains[name]) for name in RUNNING)
    assert len(macs) == 3
    assert macs <= own_vlan, "each told its network that it has moved"
    assert not macs & other_vlan, "and no other network"
    assert run.reconcile() == []

    # The one that was stopped starts where it is now; h1 takes machines only when it is enabled.
    run.power("start", "off")
    assert place.on_host("h2", "virsh", "domstate", domains["off"]).strip() == "running"
    with pytest.raises(OperationFailed, match=r"4 of 4 machines failed\..*h1 refused: not enabled"):
        run.drain("h2")
    assert place.domains()["h1"] == set()
    enable(place, "h1", True)
    enable(place, "h2", True)
    run.deploy(name="new", template="still")
    assert len(place.domains()["h1"]) == 1
