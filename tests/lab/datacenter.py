"""The lab's hosts in an inventory of their own: what tests of flows on real machines work on."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.bench import BOOT_SECTOR
from tests.flows import run
from tests.flows.engine import Engine, running_on
from tests.flows.site import settings
from tests.lab_fixture import LabAccess
from vdc import catalog, inventory
from vdc.inventory import read_session, write_session
from vdc.model import nic_device
from vdc.schema import Image, Nic, Operation, Vm, Volume
from vdc.settings import Settings
from vdc.states import HOLDING

VLAN = 300


@dataclass(frozen=True)
class Datacenter:
    """The lab's hosts, enrolled, with a VLAN and two images with a template each.

    `tiny` boots and answers; `still` halts in its boot sector: for tests that never look into the guest.
    """

    lab: LabAccess
    url: str

    @property
    def store(self) -> Path:
        return self.lab.lab.datastore

    def on_host(self, host: str, *argv: str) -> str:
        pid = str(self.lab.lab.host(host).pid)
        command = ["nsenter", "-t", pid, "-m", "-n", "-u", *argv]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout

    def domains(self) -> dict[str, set[str]]:
        """Names of the domains on each host, as virsh says."""
        return {
            h.name: set(self.on_host(h.name, "virsh", "list", "--all", "--name").split())
            for h in self.lab.lab.hosts
        }

    def files(self) -> set[str]:
        """Our files in the shared datastore, but images."""
        return {f.name for f in self.store.iterdir() if not f.name.startswith("image-")}

    def ports(self) -> set[str]:
        return {
            port
            for h in self.lab.lab.hosts
            for port in self.on_host(h.name, "ls", "/sys/class/net").split()
            if re.fullmatch(r"vd[0-9a-f]{10}-\d", port)
        }

    def assert_agrees(self) -> None:
        """Hosts have exactly what the inventory says, and nothing is under way."""
        expected: dict[str, set[str]] = {h.name: set() for h in self.lab.lab.hosts}
        files: set[str] = set()
        ports: set[str] = set()
        from vdc import specs

        with read_session(self.url) as session:
            assert session.query(Operation).filter(Operation.finished_at.is_(None)).count() == 0
            live = session.query(Vm).filter(Vm.state.in_(HOLDING)).all()
            for vm in live:
                spec = specs.load(vm.spec)
                expected[spec.host.name].add(spec.domain)
                files |= {spec.seed_file, *(d.file for d in spec.disks)}
                ports |= {nic_device(vm.id, n.index) for n in spec.nics}
            files |= {volume.file for volume in session.query(Volume).filter(Volume.state == "kept")}
            addresses = [(nic.vnet_id, nic.address) for nic in session.query(Nic)]
            assert len(set(addresses)) == len(addresses) == sum(len(specs.load(vm.spec).nics) for vm in live)
        assert self.domains() == expected
        assert self.files() == files
        assert self.ports() == ports

    def live(self) -> list[str]:
        with read_session(self.url) as session:
            return [vm.name for vm in session.query(Vm).filter(Vm.state.in_(HOLDING))]


@pytest.fixture(scope="session")
def enrolled(
    lab: LabAccess, prefect_client: Settings, tiny_image: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An inventory that knows the lab's hosts and has an image, a VLAN and a template: to be copied."""
    file = tmp_path_factory.mktemp("enrolled") / "inventory.db"
    url = f"sqlite:///{file}"
    inventory.migrate(url)
    with _working_on(url, lab, prefect_client), running_on("simulated"):
        _furnish(url, lab, {"tiny": tiny_image, "still": _still_image(file.parent)})
    inventory.engine(url).dispose()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file


def _working_on(url: str, lab: LabAccess, prefect: Settings) -> AbstractContextManager[object]:
    """The settings of a process that works on the inventory."""
    home = lab.access.key_file.parent.parent
    values = {"home": home, "prefect_api_url": prefect.api_url, "database_url": url, "retries": 1}
    return settings(**values, operation_lease_s=5)


def _still_image(directory: Path) -> Path:
    raw, image = directory / "still.raw", directory / "still.qcow2"
    raw.write_bytes(BOOT_SECTOR)
    os.truncate(raw, 32 * 1024 * 1024)
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image], check=True, timeout=60)
    return image


def _furnish(url: str, lab: LabAccess, images: dict[str, Path]) -> None:
    with write_session(url) as session:
        catalog.create_datastore(
            session, "shared", "qcow2:///srv/vdc/shared", disk_format="qcow2", actor="test"
        )
    for host in lab.lab.hosts:
        run.enroll_host(
            name=host.name,
            uri=host.uri,
            host_key=host.fingerprint,
            domain_type="qemu",
            migration_address=host.migration_address,
            cpu_overcommit=8,
        )
    for name, image in images.items():
        run.import_image(file=str(image), name=name, datastore="shared")
    with write_session(url) as session:
        catalog.create_vnet(
            session,
            "blue",
            uri="vlan://ovsbr0",
            needs_vlan=True,
            vlan_id=VLAN,
            cidr="10.3.0.0/24",
            actor="test",
        )
        for name in images:
            catalog.create_template(
                session, name, image=name, vcpu=1, memory_mib=96, vnets=["blue"], actor="test"
            )


@pytest.fixture(scope="module")
def datacenter(
    enrolled: Path, lab: LabAccess, prefect_client: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Datacenter]:
    """What the tests of other modules made, this one does not know."""
    file = tmp_path_factory.mktemp("inventory") / "inventory.db"
    shutil.copyfile(enrolled, file)
    url = f"sqlite:///{file}"
    with read_session(url) as session:
        images = {image.file for image in session.query(Image)}
    for other in [f for f in lab.lab.datastore.iterdir() if f.is_file() and f.name not in images]:
        other.unlink()
    with _working_on(url, lab, prefect_client):
        yield Datacenter(lab, url)


@pytest.fixture
def clean(datacenter: Datacenter, engine: Engine) -> Iterator[Datacenter]:
    """The datacenter without machines, before and after."""
    datacenter.assert_agrees()
    yield datacenter
    if names := datacenter.live():
        run.terminate(*names)
    datacenter.assert_agrees()
    assert datacenter.live() == []
