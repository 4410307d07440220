"""An image of what a real guest wrote: a machine made from it has it, and the image below is as it was."""

from __future__ import annotations

import json
import random
import subprocess

import pytest

from tests.contract.lab_bench import DISK
from tests.flows import run
from tests.flows.processes import Processes
from tests.lab.datacenter import Datacenter
from tests.lab.guests import on_disk, wait_for
from tests.lab.test_flows import start
from tests.lab.test_snapshots import _busy, _sha256
from tests.lab.web import SECTOR, Guest
from vdc import catalog
from vdc.errors import InvalidState
from vdc.inventory import read_session, write_session
from vdc.schema import Image, Template

__all__ = ["start"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

KILLED_TIMES = 4


def _images(datacenter: Datacenter) -> dict[str, Image]:
    with read_session(datacenter.url) as session:
        found = {image.name: image for image in session.query(Image)}
        session.expunge_all()
        return found


def _assert_images(datacenter: Datacenter) -> None:
    """Every image is as it was written down, needs no other file, and there is no file beside them."""
    images = _images(datacenter)
    assert {f.name for f in datacenter.store.glob("image-*")} == {image.file for image in images.values()}
    for image in images.values():
        file = datacenter.store / image.file
        assert image.state == "ready"
        command = ["qemu-img", "info", "-U", "--output=json", str(file)]
        told = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
        assert "backing-filename" not in told
        assert not told.get("snapshots")
        assert told["virtual-size"] == image.virtual_size_mib * 2**20
        if image.name not in ("tiny", "still"):
            assert _sha256(file) == image.sha256


def _template(datacenter: Datacenter, image: str) -> None:
    with write_session(datacenter.url) as session:
        keys = session.query(Template.ssh_keys).filter(Template.name == "keyed").scalar()
        options = {"vcpu": 1, "memory_mib": 96, "vnets": ["blue"], "ssh_keys": keys, "actor": "test"}
        catalog.create_template(session, image, image=image, **options)  # type: ignore[arg-type]


def _mark(of: Guest) -> bytes:
    """What its disk has where guests write their mark, read from outside."""
    return on_disk(of.file, SECTOR * 512, 4)


def test_what_was_written_to_a_persistent_image_is_there_for_the_next_machine(clean: Datacenter) -> None:
    """By the emulator of a machine whose guest halts: where it goes does not depend on who writes."""
    golden = clean.store / _images(clean)["still"].file
    before = _sha256(golden)
    run.clone_image("still", "home", tenant="default")
    run.switch_image("home", True)
    with write_session(clean.url) as session:
        options = {"vcpu": 1, "memory_mib": 96, "vnets": ["blue"], "actor": "test"}
        catalog.create_template(session, "home", image="home", **options)  # type: ignore[arg-type]
    run.deploy(template="home", name="web")
    first = Guest(clean, "web")
    assert first.file.name == _images(clean)["home"].file
    write = f'qemu-io -d {DISK} "write -P {ord("m")} {SECTOR * 512} 512"'
    clean.on_host(first.host, "virsh", "qemu-monitor-command", f"vm-{first.vm_id}", "--hmp", write)
    run.terminate("web")
    clean.assert_agrees()
    assert _mark(first) == b"mmmm"
    run.deploy(template="home", name="next")
    second = Guest(clean, "next")
    assert second.file == first.file
    assert _mark(second) == b"mmmm"
    run.terminate("next")
    second.check_disk()
    run.switch_image("home", False)
    _assert_images(clean)
    assert _sha256(golden) == before
    assert run.reconcile() == []
    with write_session(clean.url) as session:
        catalog.delete_template(session, "home", actor="test")
    run.delete_image("home")


def test_killed_at_random_points_nothing_half_made_is_left(
    datacenter: Datacenter,
    guest: Guest,
    start: Processes,
) -> None:
    chance = random.Random(20261124)
    guest.write("one")
    images = set(_images(datacenter))
    for n in range(KILLED_TIMES):
        child = start.start(run.save_as, "web", f"killed-{n}")
        wait_for(lambda: _busy(datacenter) or not child.process.is_alive(), "it begins", 60)  # noqa: B023
        child.process.join(chance.uniform(0.0, 0.6))
        child.kill()
        run.reconcile()
        datacenter.assert_agrees()
        guest.assert_known()
        _assert_images(datacenter)
    made = set(_images(datacenter)) - images
    assert made < {f"killed-{n}" for n in range(KILLED_TIMES)}, "none was killed in time"
    for name in made:
        run.delete_image(name)
    run.power("suspend", "web")
    guest.check_disk()
    run.power("resume", "web")
    assert guest.read() == ("one", "one")


def test_what_a_guest_wrote_is_in_a_machine_made_of_its_image(datacenter: Datacenter, guest: Guest) -> None:
    golden = datacenter.store / _images(datacenter)["tiny"].file
    before = _sha256(golden)
    first_boot = guest.boot_id()
    guest.write("one")
    run.save_as("web", "of-running")
    guest.write("two")
    assert guest.read() == ("two", "two")
    assert guest.boot_id() == first_boot, "it went on"
    guest.assert_known()
    assert guest.kept() == set()

    run.power("stop", "web", hard=True)
    run.save_as("web", "of-stopped")
    run.clone_image("of-stopped", "copy")
    _assert_images(datacenter)
    guest.check_disk()
    run.terminate("web")
    for image, at_first in (("of-running", "running"), ("copy", "paused")):
        _template(datacenter, image)
        run.deploy(template=image, name=image, start=at_first)
        machine = Guest(datacenter, image)
        if image == "of-running":  # it is one that a system starts from
            assert machine.read() == ("-", "one")
        else:
            assert _mark(machine) == b"two "
        with pytest.raises(InvalidState, match=f"in use: template {image}; machine {image}"):
            run.delete_image(image)
        run.terminate(image)
    run.delete_image("of-stopped")
    assert set(_images(datacenter)) == {"tiny", "still", "of-running", "copy"}
    _assert_images(datacenter)
    assert _sha256(golden) == before
    assert run.reconcile() == []
