"""Real machines of the image `tiny` on the lab's networks."""

from __future__ import annotations

import subprocess
import sys

import libvirt
import libvirt_qemu
import pytest

from deployments.lab.probe import open_probe
from deployments.lab.state import Lab
from tests.lab.guests import BOOT_TIMEOUT_S, GuestMaker, flat, nic, says, type_into, vlan, wait_for
from tests.lab.test_lab import CHECKOUT
from vdc.model import ContextSpec

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_guest_does_what_its_seed_and_its_host_say(own_lab: Lab, guests: GuestMaker) -> None:
    """Another host's VLAN has the same addresses: only the tags keep them apart."""
    key_file = own_lab.home / "ssh" / "id_ed25519"
    key = key_file.with_suffix(".pub").read_text().strip()
    context = ContextSpec("front-7", (key,), "echo one > /tmp/ran\nhostname >> /tmp/ran\n")
    cards = [nic(0, vlan(110, "10.2.0.0/24"), "10.2.0.9", 9), nic(1, flat("10.5.0.0/16"), "10.5.0.9", 9)]
    guest = guests.start("front-7", "h1", cards, context)
    guests.start("alien", "h2", [nic(0, vlan(200, "10.2.0.0/24"), "10.2.0.9", 3)])
    tagged = open_probe(own_lab.lab_id, 110, "10.2.0.250/24")
    other = open_probe(own_lab.lab_id, 200, "10.2.0.250/24")
    stranger = open_probe(own_lab.lab_id, 300, "10.2.0.250/24")
    untagged = open_probe(own_lab.lab_id, None, "10.5.0.250/16")

    said = wait_for(lambda: says(tagged, "10.2.0.9"), "the guest answers", BOOT_TIMEOUT_S)
    assert said["hostname"] == "front-7"
    assert said["instance_id"] == "id-front-7"
    assert said["addresses"] == "10.2.0.9/24,10.5.0.9/16"
    assert says(untagged, "10.5.0.9")["hostname"] == "front-7"
    theirs = wait_for(lambda: says(other, "10.2.0.9"), "the other VLAN's guest answers", BOOT_TIMEOUT_S)
    assert (theirs["hostname"], theirs["addresses"]) == ("alien", "10.2.0.9/24")
    assert says(stranger, "10.2.0.9") == {}
    guests.connections["h2"].lookupByName("alien").destroy()
    assert says(other, "10.2.0.9") == {}, "nobody answers for it"
    wait_for(lambda: "HELLO from front-7" in guest.console(), "the hello on the serial port")

    told = type_into(tagged, "10.2.0.9", key_file, "cat /tmp/ran; ip route")
    assert told is not None
    assert told.startswith("one\nfront-7\n")
    assert "default" not in told

    wait_for(lambda: _agent_answers(guest.domain), "the guest agent answers")
    source = libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT
    assert guest.domain.interfaceAddresses(source)["eth1"]["addrs"][0]["addr"] == "10.5.0.9"

    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER | libvirt.VIR_MIGRATE_UNSAFE
    guest.domain.migrateToURI3(f"qemu+tcp://{own_lab.host('h2').migration_address}/system", {}, flags)
    moved = wait_for(lambda: says(tagged, "10.2.0.9"), "the migrated guest answers")
    assert moved["boot_id"] == said["boot_id"]
    assert float(moved["uptime"]) > float(said["uptime"])
    assert says(other, "10.2.0.9") == {}, "on h2 it is on its own VLAN too"

    there = guests.connections["h2"].lookupByName("front-7")
    there.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
    wait_for(lambda: not guests.connections["h2"].listAllDomains(), "it obeys the power button", 20)


def test_the_probe_passes_the_exit_code_on(own_lab: Lab) -> None:
    argv = [sys.executable, "-m", "interfaces.cli.lab", "probe", "--lab", own_lab.lab_id, "--vlan", "120"]
    for command, code in ((["true"], 0), (["sh", "-c", "exit 7"], 7)):
        done = subprocess.run(
            [*argv, "--address", "10.3.0.250/24", "--", *command],
            cwd=CHECKOUT,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == code


def _agent_answers(domain: libvirt.virDomain) -> bool:
    try:
        return "return" in libvirt_qemu.qemuAgentCommand(domain, '{"execute":"guest-ping"}', 5, 0)
    except libvirt.libvirtError:
        return False
