"""An image of what a real guest wrote: a machine made from it has it, and the image below is as it was."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.lab.datacenter import Datacenter
from tests.lab.guests import wait_for
from tests.lab.test_flows import start
from tests.lab.test_snapshots import Guest, _busy, _sha256, guest
from vdc import catalog
from vdc.errors import InvalidState
from vdc.inventory import read_session, write_session
from vdc.schema import Image, Template

__all__ = ["guest", "start"]

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


def test_what_a_guest_wrote_is_in_a_machine_made_of_its_image(clean: Datacenter, guest: Guest) -> None:
    golden = clean.store / _images(clean)["tiny"].file
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
    _assert_images(clean)
    guest.check_disk()
    run.terminate("web")
    for image, mark in (("of-running", "one"), ("copy", "two")):
        _template(clean, image)
        run.deploy(template=image, name=image)
        assert Guest(clean, image).read() == ("-", mark)
        with pytest.raises(InvalidState, match=f"in use: template {image}; machine {image}"):
            run.delete_image(image)
        run.terminate(image)
    run.delete_image("of-stopped")
    assert set(_images(clean)) == {"tiny", "still", "of-running", "copy"}
    _assert_images(clean)
    assert _sha256(golden) == before
    assert run.reconcile() == []


def test_what_a_guest_wrote_to_a_persistent_image_is_there_for_the_next_machine(
    clean: Datacenter, guest: Guest
) -> None:
    run.terminate("web")
    golden = clean.store / _images(clean)["tiny"].file
    before = _sha256(golden)
    run.clone_image("tiny", "home", tenant="default")
    run.switch_image("home", True)
    _template(clean, "home")
    run.deploy(template="home", name="web")
    first = Guest(clean, "web")
    assert first.file.name == _images(clean)["home"].file
    first.write("mail")
    run.terminate("web")
    clean.assert_agrees()
    run.deploy(template="home", name="next")
    second = Guest(clean, "next")
    assert second.file == first.file
    assert second.read() == ("-", "mail")
    run.terminate("next")
    second.check_disk()
    run.switch_image("home", False)
    _assert_images(clean)
    assert _sha256(golden) == before
    assert run.reconcile() == []


def test_killed_at_random_points_nothing_half_made_is_left(
    clean: Datacenter,
    guest: Guest,
    start: Processes,
) -> None:
    chance = random.Random(20261124)
    guest.write("one")
    images = set(_images(clean))
    for n in range(KILLED_TIMES):
        child = start.start(run.save_as, "web", f"killed-{n}")
        wait_for(lambda: _busy(clean) or not child.process.is_alive(), "it begins", 60)  # noqa: B023
        child.process.join(chance.uniform(0.0, 0.6))
        if child.process.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            child.process.join(30)
        run.reconcile()
        clean.assert_agrees()
        guest.assert_known()
        _assert_images(clean)
    made = set(_images(clean)) - images
    assert made < {f"killed-{n}" for n in range(KILLED_TIMES)}, "none was killed in time"
    assert guest.read() == ("one", "one")
    guest.pull_the_plug()
    guest.check_disk()
