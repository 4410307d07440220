"""Snapshots of a real guest on a real host: what it had in memory and on its disk comes back."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.flows import run
from tests.flows.processes import Processes
from tests.lab.datacenter import Datacenter
from tests.lab.guests import wait_for
from tests.lab.test_flows import start
from tests.lab.web import Guest
from vdc.inventory import read_session
from vdc.schema import Image, Operation, Snapshot

__all__ = ["start"]

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

KILLED_TIMES = 4


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_killed_at_random_points_nothing_half_made_is_left(
    datacenter: Datacenter, guest: Guest, start: Processes
) -> None:
    chance = random.Random(20261124)
    guest.write("one")
    run.snapshot("web", "good")
    guest.write("two")
    for n in range(KILLED_TIMES):
        act = (run.revert, "web", "good") if n % 2 else (run.snapshot, "web", f"k{n}")
        child = start.start(*act)
        wait_for(lambda: _busy(datacenter) or not child.process.is_alive(), "it begins", 60)  # noqa: B023
        # From here a snapshot with memory takes one to two seconds.
        child.process.join(chance.uniform(0.0, 1.5))
        child.kill()
        run.reconcile()
        datacenter.assert_agrees()
        guest.assert_known()
        if act[0] is run.revert:
            assert guest.read() == ("one", "one")
    guest.pull_the_plug()
    guest.check_disk()
    run.revert("web", "good")
    assert guest.read() == ("one", "one")
    with read_session(datacenter.url) as session:
        labels = list(session.scalars(session.query(Snapshot.label).statement))
    for label in labels:
        run.delete_snapshot("web", label)
    assert guest.kept() == set()


def test_what_a_guest_had_in_memory_and_on_its_disk_comes_back(datacenter: Datacenter, guest: Guest) -> None:
    with read_session(datacenter.url) as session:
        golden = datacenter.store / str(session.query(Image.file).filter(Image.name == "tiny").scalar())
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
    with read_session(datacenter.url) as session:
        assert session.query(Operation).filter(Operation.finished_at.is_(None)).count() == 0


def _busy(datacenter: Datacenter) -> bool:
    with read_session(datacenter.url) as session:
        return session.query(Operation).filter(Operation.open_key.like("vm:%")).count() > 0
