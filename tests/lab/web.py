"""The machine `web`, asked from inside: what tests of one module may hand on to each other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from deployments.lab.probe import Probe, open_probe
from tests.flows import run
from tests.flows.engine import Engine, running_on
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, type_into, wait_for
from vdc import catalog
from vdc.inventory import read_session, write_session
from vdc.schema import Disk, Nic, Snapshot, Template, Vm
from vdc.states import HOLDING, VmState

SECTOR = 65000
"""Near the end of a disk of 32 MiB, where nothing of the guest's own is."""


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
        return type_into(self.probe, self.address, self.datacenter.lab.access.key_file, command)

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


@pytest.fixture(scope="module")
def left(datacenter: Datacenter) -> Iterator[None]:
    """What tests leave for the next ones of their module is gone after the last."""
    yield
    with running_on("simulated"):
        if names := datacenter.live():
            run.terminate(*names)
        datacenter.assert_agrees()
        assert datacenter.live() == []


@pytest.fixture
def guest(datacenter: Datacenter, engine: Engine, left: None) -> Iterator[Guest]:
    """`web` of a template `keyed`: the one that a test has left running and as it was, or a new one."""
    key = datacenter.lab.access.key_file.with_suffix(".pub").read_text().strip()
    with write_session(datacenter.url) as session:
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
    if not _as_new(datacenter):
        if names := datacenter.live():
            run.terminate(*names)
        run.deploy(count=1, name="web", template="keyed")
    datacenter.assert_agrees()
    yield Guest(datacenter, "web")
    datacenter.assert_agrees()


def _as_new(datacenter: Datacenter) -> bool:
    """Whether there is `web` alone, running, with what its template gave it and nothing more."""
    with read_session(datacenter.url) as session:
        vms = session.query(Vm).filter(Vm.state.in_(HOLDING)).all()
        if [(vm.name, vm.state) for vm in vms] != [("web", VmState.RUNNING)]:
            return False
        (vm,) = vms
        seen = (
            (vm.vcpu, vm.memory_mib),
            [disk.size_mib for disk in session.query(Disk).filter(Disk.vm_id == vm.id)],
            session.query(Nic).filter(Nic.vm_id == vm.id).count(),
            session.query(Snapshot).count(),
        )
    return seen == ((1, 96), [32], 1, 0)
