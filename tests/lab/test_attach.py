"""A real guest that gets disks, an ISO image and a card while it runs, and tells of them from inside."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pycdlib
import pytest

from deployments.lab.probe import open_probe
from tests.flows import run
from tests.flows.engine import Engine
from tests.flows.processes import Processes
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from tests.lab.test_flows import start
from tests.lab.test_snapshots import _busy
from tests.lab.web import Guest
from vdc import catalog
from vdc.inventory import read_session, write_session
from vdc.schema import Image, Vm, Vnet, Volume

__all__ = ["start"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

KILLED_TIMES = 4
BACK = 301
"""VLAN of the second network."""


def _write_iso(target: Path, content: bytes) -> None:
    image = pycdlib.PyCdlib()
    image.new(rock_ridge="1.09", vol_ident="TOOLS")
    image.add_fp(io.BytesIO(content), len(content), "/TOOLS.;1", rr_name="tools")
    image.write(str(target))
    image.close()


def disks(of: Guest) -> set[str]:
    """What the guest calls its disks."""
    return set(of.sh("cd /sys/block; ls -d vd* 2>/dev/null").split())


@pytest.fixture
def furnished(datacenter: Datacenter, engine: Engine, tmp_path: Path) -> Datacenter:
    """With an ISO image `tools` and a network `back`."""
    with read_session(datacenter.url) as session:
        known = {i.name for i in session.query(Image)} | {v.name for v in session.query(Vnet)}
    if "tools" not in known:
        _write_iso(tmp_path / "tools.iso", b"from-the-disc")
        run.import_image(file=str(tmp_path / "tools.iso"), name="tools", datastore="shared")
    if "back" not in known:
        with write_session(datacenter.url) as session:
            net = {"uri": "vlan://ovsbr0", "needs_vlan": True, "vlan_id": BACK, "cidr": "10.4.0.0/24"}
            catalog.create_vnet(session, "back", **net, actor="test")  # type: ignore[arg-type]
    return datacenter


def test_the_guest_sees_what_comes_and_what_goes(furnished: Datacenter, guest: Guest) -> None:
    boot = guest.boot_id()
    assert disks(guest) == {"vda"}

    # An empty disk, which takes what is written to it wherever the machine goes.
    run.attach_disk("web", size_mib=64, name="data")
    furnished.assert_agrees()
    wait_for(lambda: disks(guest) == {"vda", "vdb"}, "the disk is seen", 60)
    assert int(guest.sh("cat /sys/block/vdb/size")) == 64 * 2048
    guest.sh("printf kept | dd of=/dev/vdb bs=512 conv=notrunc 2>/dev/null; sync")

    # A disc, that can only be read.
    run.attach_disk("web", iso="tools")
    look = "mkdir -p /disc; mount -t iso9660 -o ro /dev/sr1 /disc && cat /disc/tools; umount /disc"
    wait_for(lambda: "from-the-disc" in guest.sh(look), "the disc is read", 60)
    assert guest.sh("dd if=/dev/zero of=/dev/sr1 count=1 2>/dev/null || echo refused").strip() == "refused"

    # A card, that answers on its network.
    run.attach_nic("web", "back", "10.4.0.9")
    furnished.assert_agrees()
    probe = open_probe(furnished.lab.lab.lab_id, BACK, "10.4.0.250/24")
    answer = wait_for(lambda: says(probe, "10.4.0.9"), "the card answers", 60)
    assert answer["boot_id"] == boot
    assert "10.4.0.9/24" in answer["addresses"]

    # All of it goes along while it runs.
    run.migrate("web")
    moved = Guest(furnished, "web")
    assert moved.host != guest.host
    assert says(probe, "10.4.0.9")["boot_id"] == boot == moved.boot_id()
    assert moved.sh("head -c 4 /dev/vdb") == "kept"
    assert "from-the-disc" in moved.sh(look)
    assert run.reconcile() == []

    # What was kept comes back with what is on it, into a machine that is off too, and that goes along.
    run.detach_disk("web", "data", keep=True)
    furnished.assert_agrees()
    assert disks(moved) == {"vda"}
    run.power("stop", "web", timeout_s=60)
    run.attach_disk("web", volume="data")
    run.migrate("web", guest.host)
    run.power("start", "web")
    back = Guest(furnished, "web")
    assert back.boot_id() != boot
    assert disks(back) == {"vda", "vdb"}
    assert back.sh("head -c 4 /dev/vdb") == "kept"
    wait_for(lambda: says(probe, "10.4.0.9"), "the card answers after a start", 60)
    assert "from-the-disc" in back.sh(look)

    # And out again.
    run.detach_nic("web", "back")
    run.detach_disk("web", "tools")
    run.detach_disk("web", "data")
    furnished.assert_agrees()
    assert disks(back) == {"vda"}
    assert back.sh("ls /sys/block | grep -c sr").strip() == "1"
    assert back.sh("ls /sys/class/net").split() == ["eth0", "lo"]
    assert not says(probe, "10.4.0.9")
    assert run.reconcile() == []
    assert run.verify_problems() == []


def test_killed_at_random_points_a_disk_is_in_or_out(
    furnished: Datacenter, guest: Guest, start: Processes
) -> None:
    chance = random.Random(20261124)
    guest.boot_id()
    there = False
    for n in range(KILLED_TIMES):
        child = start.start(_detach if there else _attach, "web")
        wait_for(lambda: _busy(furnished) or not child.process.is_alive(), "it begins", 60)  # noqa: B023
        child.process.join(chance.uniform(0.0, 0.5))
        child.kill()
        run.reconcile()
        furnished.assert_agrees()
        with read_session(furnished.url) as session:
            there = session.query(Volume).filter(Volume.state == "attached").count() > 0
        wait_for(lambda: disks(guest) == ({"vda", "vdb"} if there else {"vda"}), f"try {n}", 60)  # noqa: B023
    if there:
        run.detach_disk("web", "data")


def test_a_guest_that_shuts_itself_down_is_adopted_as_stopped(datacenter: Datacenter, guest: Guest) -> None:
    domain = f"vm-{guest.vm_id}"

    def is_off() -> bool:
        # As somebody would press its power button; once it listens, that is enough.
        pressed = f"virsh domstate {domain} | grep -q 'shut off' || virsh -q shutdown {domain} || true"
        datacenter.on_host(guest.host, "sh", "-c", pressed)
        return "shut off" in datacenter.on_host(guest.host, "virsh", "domstate", domain)

    wait_for(is_off, "it is off", BOOT_TIMEOUT_S)
    assert [f.action for f in run.reconcile()] == ["adopted as stopped"]
    with read_session(datacenter.url) as session:
        vm = session.get_one(Vm, guest.vm_id)
        assert (vm.state, vm.desired) == ("stopped", "stopped")


def _attach(vm: str) -> str:
    return run.attach_disk(vm, size_mib=8, name="data")


def _detach(vm: str) -> str:
    return run.detach_disk(vm, "data")
