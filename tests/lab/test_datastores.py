"""Datastores of real hosts: one that is full, and what then becomes of machines."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from deployments.lab.probe import open_probe
from deployments.lab.state import LOCAL_DATASTORE
from tests.flows import run
from tests.flows.processes import Processes
from tests.lab.datacenter import VLAN, Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, on_disk, says, type_into, wait_for
from tests.lab.test_flows import start
from tests.lab.web import SECTOR, Guest
from vdc import catalog, specs
from vdc.errors import NoCapacity, OperationFailed
from vdc.inventory import read_session, write_session
from vdc.schema import Datastore, Host, HostDatastore, Nic, Vm, Volume
from vdc.states import HOLDING

__all__ = ["start"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

SMALL_MIB = 48
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


def _key(datacenter: Datacenter) -> str:
    return datacenter.lab.access.key_file.with_suffix(".pub").read_text().strip()


@pytest.fixture
def small(clean: Datacenter, tiny_image: Path) -> Iterator[Datacenter]:
    """A file system of SMALL_MIB on h1, with an image and a template in it."""
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
                session,
                "small",
                image="small",
                vcpu=1,
                memory_mib=96,
                vnets=["blue"],
                ssh_keys=[_key(clean)],
                actor="test",
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
        _forget(clean, "small")


def _forget(datacenter: Datacenter, name: str) -> None:
    """As if it had never been: the next tests begin without it."""
    with write_session(datacenter.url) as session:
        stores = [i for (i,) in session.query(Datastore.id).filter(Datastore.name == name)]
        session.query(HostDatastore).filter(HostDatastore.datastore_id.in_(stores)).delete()
        session.query(Volume).filter(Volume.datastore_id.in_(stores)).delete()
        session.query(Datastore).filter(Datastore.id.in_(stores)).delete()


def _files(datacenter: Datacenter) -> set[str]:
    return set(datacenter.on_host("h1", "ls", "-A", SMALL).split()) - {"lost+found"}


def _fill(datacenter: Datacenter) -> None:
    """To the last block: dd ends with an error when there is no more."""
    datacenter.on_host("h1", "sh", "-c", f"! dd if=/dev/zero of={SMALL}/ballast bs=4096 2>/dev/null")


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
    run.deploy(template="small", name="thirsty")
    with read_session(small.url) as session:
        vm = session.query(Vm).filter(Vm.name == "thirsty").one()
        domain = f"vm-{vm.id}"
        address = session.query(Nic.address).filter(Nic.vm_id == vm.id).scalar()
        assert vm.host_id == session.query(Host.id).filter(Host.name == "h1").scalar()
    probe = open_probe(small.lab.lab.lab_id, VLAN, "10.3.0.250/24")
    before = wait_for(lambda: says(probe, address), "the machine answers", BOOT_TIMEOUT_S)
    _fill(small)
    # Into the disk beyond what its image has; QEMU pauses the guest, so that nobody waits for the answer.
    write = "dd if=/dev/urandom of=/dev/vda bs=65536 seek=400 count=100 conv=notrunc,fsync >/dev/null 2>&1 &"
    wait_for(
        lambda: type_into(probe, address, small.lab.access.key_file, write) is not None,
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
    with pytest.raises(OperationFailed, match=r"stands still again: there is no room.*Make room"):
        run.power("resume", "thirsty")
    small.on_host("h1", "rm", f"{SMALL}/ballast")
    run.power("resume", "thirsty")
    after = wait_for(lambda: says(probe, address), "the machine answers again", BOOT_TIMEOUT_S)
    assert after["boot_id"] == before["boot_id"], "nothing was lost"
    assert [f for f in run.reconcile() if f.object == "vm/thirsty"] == []


# -- disks that each host has for itself -----------------------------------------------------------------


@pytest.fixture
def own(clean: Datacenter, tiny_image: Path) -> Iterator[Datacenter]:
    """A datastore `own` on the hosts' own disks, with an image and a template."""
    vdc("datastore", "create", "own", "--uri", f"local://{LOCAL_DATASTORE}")
    try:
        assert len(json.loads(vdc("datastore", "mount", "own", "--json"))) == 2
        run.import_image(file=str(tiny_image), name="own", datastore="own")
        with write_session(clean.url) as session:
            catalog.create_template(
                session,
                "own",
                image="own",
                vcpu=1,
                memory_mib=96,
                vnets=["blue"],
                ssh_keys=[_key(clean)],
                actor="test",
            )
        yield clean
        if names := clean.live():
            run.terminate(*names)
        with write_session(clean.url) as session:
            catalog.delete_template(session, "own", actor="test")
        run.delete_image("own")
        assert {host: _own_files(clean, host) for host in ("h1", "h2")} == {"h1": set(), "h2": set()}
    finally:
        _forget(clean, "own")


def _own_files(datacenter: Datacenter, host: str) -> set[str]:
    return {file.name for file in own_directory(datacenter, host).iterdir() if file.is_file()}


def _where(datacenter: Datacenter, name: str) -> str:
    """Its one host: as the inventory says, where its domain is, and all its files, and none elsewhere."""
    with read_session(datacenter.url) as session:
        vm = session.query(Vm).filter(Vm.name == name, Vm.state.in_(HOLDING)).one()
        spec = specs.load(vm.spec)
    files = {spec.seed_file, *(disk.file for disk in spec.disks)}
    for host, domains in datacenter.domains().items():
        is_here = host == spec.host.name
        assert (spec.domain in domains) is is_here
        there = {f for f in _own_files(datacenter, host) if f.startswith(("vm-", "volume-"))}
        assert there == (files if is_here else set())
    return spec.host.name


def test_an_image_is_brought_once_and_a_machine_takes_its_disk_along(
    own: Datacenter, start: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "drivers.datastore.local")
    run.deploy(template="own", name="many", count=4, start="paused")
    assert len({_host_of(own, f"many-{n}") for n in range(1, 5)}) == 2
    copies = [r.getMessage() for r in caplog.records if r.name == "drivers.datastore.local"]
    assert [line.rpartition(" ")[2] for line in copies] == ["h2."], "the import brought it to h1"
    run.terminate(*own.live())

    run.deploy(template="own", name="web")
    guest = Guest(own, "web")
    here = _where(own, "web")
    there = {"h1": "h2", "h2": "h1"}[here]
    guest.write("marked")
    run.attach_disk("web", size_mib=8, name="data")
    # Before the guest has seen the disk this would make a plain file of that name, in its memory.
    guest.sh("test -b /dev/vdb && echo data > /dev/vdb && sync")
    before = says(guest.probe, guest.address)
    run.migrate("web", there, with_storage=True)
    assert _where(own, "web") == there
    after = wait_for(lambda: says(guest.probe, guest.address), "it answers", BOOT_TIMEOUT_S)
    assert before is not None
    assert after["boot_id"] == before["boot_id"], "it went on running"
    assert float(after["uptime"]) > float(before["uptime"])
    assert guest.read() == ("marked", "marked")
    assert _data(guest) == "data"

    # Killed in the middle of the way back: libvirt goes on without us.
    child = start.start(_migrate_slowly, here)
    domain = f"vm-{guest.vm_id}"
    wait_for(lambda: domain in own.domains()[here] or None, "the migration is under way", BOOT_TIMEOUT_S)
    child.kill()
    found = [(f.what, f.object) for f in run.reconcile()]
    assert found == [("interrupted operation", "vm/web")]
    home = _where(own, "web")
    assert guest.read() == ("marked", "marked")

    away = {"h1": "h2", "h2": "h1"}[home]
    run.migrate("web", away, with_storage=True, cold=True)
    assert _where(own, "web") == away
    assert own.on_host(away, "virsh", "domstate", f"vm-{guest.vm_id}").strip() == "running"
    assert says(guest.probe, guest.address) == {}, "its memory went, it starts anew"
    files = own_directory(own, away)
    assert on_disk(files / guest.file.name, SECTOR * 512, 7) == b"marked ", "its disk did not"
    with read_session(own.url) as session:
        data = session.query(Volume.file).filter(Volume.name == "data").scalar()
    assert on_disk(files / str(data), 0, 4) == b"data"
    assert run.reconcile() == []


def _data(guest: Guest) -> str:
    return guest.sh("echo 3 > /proc/sys/vm/drop_caches; head -c 4 /dev/vdb")


def _host_of(datacenter: Datacenter, name: str) -> str:
    with read_session(datacenter.url) as session:
        vm = session.query(Vm).filter(Vm.name == name, Vm.state.in_(HOLDING)).one()
        return specs.load(vm.spec).host.name


def _migrate_slowly(to: str) -> str:
    """For processes: a function that can be pickled."""
    return run.migrate("web", to, with_storage=True, bandwidth_mib_s=16)
