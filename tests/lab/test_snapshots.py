"""Snapshots of a real guest on a real host: what it had in memory and on its disk comes back."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import pytest

from deployments.lab.probe import Probe, open_probe
from tests.flows import run
from tests.flows.processes import Processes
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from tests.lab.test_flows import start
from vdc import catalog
from vdc.inventory import read_session, write_session
from vdc.schema import Disk, Image, Nic, Operation, Snapshot, Template, Vm
from vdc.states import HOLDING

__all__ = ["start"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

SECTOR = 65000
"""Near the end of a disk of 32 MiB, where nothing of the guest's own is."""
KILLED_TIMES = 4


class Guest:
    """A machine of ours, seen through its own eyes."""

    def __init__(self, datacenter: Datacenter, name: str) -> None:
        self.datacenter = datacenter
        self.name = name
        with read_session(datacenter.url) as session:
            vm = session.query(Vm).filter(Vm.name == name, Vm.state.in_(HOLDING)).one()
            self.vm_id, self.host = vm.id, str(vm.spec["host"]["name"])
            self.address = session.query(Nic.address).filter(Nic.vm_id == vm.id, Nic.index == 0).scalar()
            root = session.query(Disk.file).filter(Disk.vm_id == vm.id, Disk.index == 0).scalar()
            self.file = datacenter.store / str(root)
        self.probe: Probe = open_probe(datacenter.lab.lab.lab_id, 300, "10.3.0.250/24")

    def boot_id(self) -> str:
        """Once it answers: another one after each start."""
        answer = wait_for(lambda: says(self.probe, self.address), f"{self.name} answers", BOOT_TIMEOUT_S)
        return answer["boot_id"]

    def _sh(self, command: str) -> str | None:
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10")
        argv = ["ssh", "-F", "/dev/null", "-i", str(self.datacenter.lab.access.key_file)]
        argv += [word for option in options for word in ("-o", option)]
        done = self.probe.run([*argv, f"root@{self.address}", command], timeout_s=60)
        return done.stdout if done.returncode == 0 else None

    def sh(self, command: str) -> str:
        self.boot_id()
        answers: list[str] = []
        # Its SSH server may be up a little later than it answers.
        wait_for(
            lambda: (answer := self._sh(command)) is not None and not answers.append(answer),
            f"{self.name} lets us in",
            BOOT_TIMEOUT_S,
        )
        return answers[0]

    def write(self, mark: str) -> None:
        """In its memory (the root file system is there) and on its disk."""
        disk = f"printf %-512s {mark} | dd of=/dev/vda bs=512 seek={SECTOR} conv=notrunc 2>/dev/null && sync"
        self.sh(f"echo {mark} > /mark && {disk}")

    def read(self) -> tuple[str, str]:
        disk = f"dd if=/dev/vda bs=512 skip={SECTOR} count=1 2>/dev/null"
        # What it remembers of its disk is memory too.
        told = self.sh(f"echo 3 > /proc/sys/vm/drop_caches; cat /mark 2>/dev/null || echo -; {disk}")
        memory, disk_mark = told.replace("\0", "").split("\n", 1)
        return memory.strip(), disk_mark.strip()

    def pull_the_plug(self) -> None:
        self.datacenter.on_host(self.host, "virsh", "destroy", f"vm-{self.vm_id}")
        run.reconcile()

    def kept(self) -> set[str]:
        """Ids of the snapshots in its disk, as qemu-img says."""
        command = ["qemu-img", "info", "-U", "--output=json", str(self.file)]
        told = subprocess.run(command, check=True, capture_output=True, timeout=30).stdout
        return {s["name"] for s in json.loads(told).get("snapshots", [])}

    def check_disk(self) -> None:
        """Raises where the file has errors or lost clusters; the machine must be off."""
        subprocess.run(["qemu-img", "check", "-q", str(self.file)], check=True, timeout=60)

    def assert_known(self) -> None:
        """The disk has the snapshots of the inventory, and libvirt knows of none."""
        with read_session(self.datacenter.url) as session:
            assert self.kept() == set(session.scalars(session.query(Snapshot.id).statement))
        listed = self.datacenter.on_host(self.host, "virsh", "snapshot-list", f"vm-{self.vm_id}", "--name")
        assert listed.split() == []


@pytest.fixture
def guest(clean: Datacenter) -> Guest:
    key = clean.lab.access.key_file.with_suffix(".pub").read_text().strip()
    with write_session(clean.url) as session:
        if "keyed" not in {t.name for t in session.query(Template)}:
            catalog.create_template(
                session,
                "keyed",
                image="tiny",
                vcpu=1,
                memory_mib=96,
                disk_mib=32,
                vnets=["blue"],
                ssh_keys=[key],
                actor="test",
            )
    run.deploy(count=1, name="web", template="keyed")
    return Guest(clean, "web")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_what_a_guest_had_in_memory_and_on_its_disk_comes_back(clean: Datacenter, guest: Guest) -> None:
    with read_session(clean.url) as session:
        golden = clean.store / str(session.query(Image.file).filter(Image.name == "tiny").scalar())
    before = _sha256(golden)
    first_boot = guest.boot_id()
    guest.write("one")
    run.snapshot("web", "with-memory")
    guest.write("two")
    run.snapshot("web", "disks", "disk")
    guest.write("three")
    assert guest.read() == ("three", "three")

    run.revert("web", "with-memory")
    assert guest.read() == ("one", "one")
    assert guest.boot_id() == first_boot, "it goes on as if nothing had happened"

    run.revert("web", "disks")
    assert guest.read() == ("-", "two")
    assert guest.boot_id() != first_boot, "it was started anew"
    guest.assert_known()

    guest.pull_the_plug()
    guest.check_disk()
    run.revert("web", "with-memory")
    assert guest.read() == ("one", "one")
    run.delete_snapshot("web", "with-memory")
    run.delete_snapshot("web", "disks")
    guest.assert_known()
    assert guest.kept() == set()
    assert guest.read() == ("one", "one")

    guest.pull_the_plug()
    guest.check_disk()
    assert _sha256(golden) == before
    with read_session(clean.url) as session:
        assert session.query(Operation).filter(Operation.finished_at.is_(None)).count() == 0


def test_killed_at_random_points_nothing_half_made_is_left(
    clean: Datacenter, guest: Guest, start: Processes
) -> None:
    chance = random.Random(20261124)
    guest.write("one")
    run.snapshot("web", "good")
    guest.write("two")
    for n in range(KILLED_TIMES):
        act = (run.revert, "web", "good") if n % 2 else (run.snapshot, "web", f"k{n}")
        child = start.start(*act)
        wait_for(lambda: _busy(clean) or not child.process.is_alive(), "it begins", 60)  # noqa: B023
        # From here a snapshot with memory takes one to two seconds.
        child.process.join(chance.uniform(0.0, 1.5))
        if child.process.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.process.join(30)
        run.reconcile()
        clean.assert_agrees()
        guest.assert_known()
        if act[0] is run.revert:
            assert guest.read() == ("one", "one")
    guest.pull_the_plug()
    guest.check_disk()


def _busy(datacenter: Datacenter) -> bool:
    with read_session(datacenter.url) as session:
        return session.query(Operation).filter(Operation.open_key.like("vm:%")).count() > 0
