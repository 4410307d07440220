"""Datastores of real hosts: one that is full, and what then becomes of machines."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.lab.probe import open_probe
from deployments.lab.state import LOCAL_DATASTORE
from tests.flows import run
from tests.lab.datacenter import VLAN, Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from vdc import catalog
from vdc.errors import NoCapacity, OperationFailed
from vdc.inventory import read_session, write_session
from vdc.schema import Datastore, Host, HostDatastore, Nic, Vm

pytestmark = [pytest.mark.lab, pytest.mark.prefect, pytest.mark.timeout(400)]

SMALL_MIB = 24
SMALL = "/srv/vdc/small"


def vdc(*argv: str) -> str:
    """What the command prints; it must be done."""
    from interfaces.cli.main import cli

    done = CliRunner().invoke(cli, argv)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def own_directory(datacenter: Datacenter, host: str) -> Path:
    """What the host sees as its own /srv/vdc/local."""
    lab = datacenter.lab.lab
    return lab.home / "lab" / lab.lab_id / host / "local"


@pytest.fixture
def small(clean: Datacenter, tiny_image: Path) -> Iterator[Datacenter]:
    """A file system of 24 MiB on h1, with an image and a template in it."""
    disk = own_directory(clean, "h1") / "small.ext4"
    with disk.open("wb") as file:
        file.truncate(SMALL_MIB * 2**20)
    # Without a journal, and nothing kept for root: nearly all of it is for files.
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(disk)], check=True, timeout=60)
    clean.on_host("h1", "mkdir", "-p", SMALL)
    clean.on_host("h1", "mount", "-o", "loop", f"{LOCAL_DATASTORE}/{disk.name}", SMALL)
    try:
        vdc("datastore", "create", "small", "--uri", f"qcow2://{SMALL}?shared=no")
        vdc("datastore", "mount", "small", "--host", "h1")
        run.import_image(file=str(tiny_image), name="small", datastore="small")
        with write_session(clean.url) as session:
            catalog.create_template(
                session, "small", image="small", vcpu=1, memory_mib=64, vnets=["blue"], actor="test"
            )
        yield clean
        if names := clean.live():
            run.terminate(*names)
        with write_session(clean.url) as session:
            catalog.delete_template(session, "small", actor="test")
        run.delete_image("small")
    finally:
        clean.on_host("h1", "umount", SMALL)
        disk.unlink()
        with write_session(clean.url) as session:
            stores = [i for (i,) in session.query(Datastore.id).filter(Datastore.name == "small")]
            session.query(HostDatastore).filter(HostDatastore.datastore_id.in_(stores)).delete()
            session.query(Datastore).filter(Datastore.id.in_(stores)).delete()


def _files(datacenter: Datacenter) -> set[str]:
    return set(datacenter.on_host("h1", "ls", "-A", SMALL).split()) - {"lost+found"}


def _fill(datacenter: Datacenter) -> None:
    """To the last block: dd ends with an error when there is no more."""
    datacenter.on_host("h1", "sh", "-c", f"dd if=/dev/zero of={SMALL}/ballast bs=4096 2>/dev/null || true")


def test_a_full_datastore_takes_no_machine_and_keeps_nothing_of_it(small: Datacenter) -> None:
    (image,) = _files(small)
    _fill(small)
    # Nobody has looked since: it is tried, fails, and is taken back.
    with pytest.raises(OperationFailed, match=r"'ensure disk' of web on host h1 .*No space left on device"):
        run.deploy(template="small", name="web")
    assert _files(small) == {image, "ballast"}
    small.assert_agrees()
    run.reconcile()
    with pytest.raises(NoCapacity, match=r"h1 refused: datastore small there: it has 0 MiB free"):
        run.deploy(template="small", name="web")
    (row,) = [row for row in json.loads(vdc("datastore", "list", "--json")) if row["name"] == "small"]
    assert (row["free_mib"], row["used_mib"]) == (0, row["capacity_mib"])


def test_a_machine_that_fills_it_stands_still_and_goes_on_when_there_is_room(small: Datacenter) -> None:
    run.deploy(template="small", name="thirsty", memory_mib=96)
    with read_session(small.url) as session:
        vm = session.query(Vm).filter(Vm.name == "thirsty").one()
        domain = f"vm-{vm.id}"
        address = session.query(Nic.address).filter(Nic.vm_id == vm.id).scalar()
        assert vm.host_id == session.query(Host.id).filter(Host.name == "h1").scalar()
    probe = open_probe(small.lab.lab.lab_id, VLAN, "10.3.0.250/24")
    before = wait_for(lambda: says(probe, address), "the machine answers", BOOT_TIMEOUT_S)
    _fill(small)
    ssh = ["ssh", "-F", "/dev/null", "-i", str(small.lab.access.key_file)]
    for option in ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=10"):
        ssh += ["-o", option]
    # Into the disk beyond what its image has; QEMU pauses the guest, so that nobody waits for the answer.
    write = "dd if=/dev/urandom of=/dev/vda bs=65536 seek=400 count=100 oflag=sync >/dev/null 2>&1 &"
    wait_for(
        lambda: probe.run([*ssh, f"root@{address}", write], timeout_s=30).returncode == 0 or None,
        "the machine lets us in",
        BOOT_TIMEOUT_S,
    )
    state = ("virsh", "domstate", "--reason", domain)
    wait_for(lambda: "I/O error" in small.on_host("h1", *state) or None, "it stands still", 60)
    told = {finding.what: finding.action for finding in run.reconcile() if finding.object == "vm/thirsty"}
    assert told == {
        "machine stands still: no room for what it writes": (
            "make room in its datastore, then `vdc vm resume thirsty`"
        ),
        "was running, is paused": "adopted as paused",
    }
    small.on_host("h1", "rm", f"{SMALL}/ballast")
    run.power("resume", "thirsty")
    after = wait_for(lambda: says(probe, address), "the machine answers again", BOOT_TIMEOUT_S)
    assert after["boot_id"] == before["boot_id"], "nothing was lost"
    assert [f for f in run.reconcile() if f.object == "vm/thirsty"] == []
