"""How full datastores are, what is refused where they are, and what reconcile makes of it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.unit.test_placement import SHAPE, host, names
from vdc.model import DomainSeen, HostRef, StorageUse
from vdc.placement import POLICIES, Group, place
from vdc.reconciliation import Differences, HostSeen, Known, StoreSeen, World, compare
from vdc.states import Desired, VmState
from vdc.storage import Room

WHEN = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
ROOM = Room("fast", "h1", None, 1000, 500, 200, WHEN)
VM = "0c0ffee0-0000-4000-8000-000000000001"
HERE, THERE = HostRef("h1", "simulated:///x?host=h1"), HostRef("h2", "simulated:///x?host=h2")


@pytest.mark.parametrize(
    ("room", "machines", "disk_mib", "says"),
    [
        (ROOM, 500, 64, ""),
        (ROOM, 501, 64, r"it has 500 MiB free \(2026-11-24 12:30 UTC"),
        (replace(ROOM, free_mib=None, capacity_mib=None, overcommit=1.0), 10_000, 64, ""),
        (replace(ROOM, overcommit=1.0), 12, 64, ""),
        (replace(ROOM, overcommit=1.0), 13, 64, r"200 of 1000 MiB are promised \(1 times.*, 832 more"),
        (replace(ROOM, overcommit=2.0), 28, 64, ""),
        (replace(ROOM, overcommit=2.0), 29, 64, "200 of 2000 MiB are promised"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_figures(
    room: Room, machines: int, disk_mib: int, says: str
) -> None:
    refused = room.refusal(machines, disk_mib)
    assert re.search(says, refused) if says else refused == ""


def test_machines_go_where_their_own_disk_has_room() -> None:
    """Two more on h1, whose disk is promised nearly out; then the other one takes them."""
    nearly = replace(ROOM, overcommit=1.0, allocated_mib=850)
    empty = replace(nearly, host="h2", allocated_mib=0)
    hosts = [host("h1", rooms={"d": nearly}, vms=0), host("h2", rooms={"d": empty}, vms=3)]
    asked = replace(SHAPE, disk_mib=64)
    assert names(place(4, asked, hosts, POLICIES["spread"])) == ["h1", "h1", "h2", "h2"]
    full = replace(nearly, allocated_mib=1000)
    only = place(1, asked, [host("h1", rooms={"d": full})], POLICIES["spread"])
    assert names(only) == [None]
    assert "h1 refused: datastore fast there: 1000 of 1000 MiB are promised" in only.said[0]
    together = Group("g", "affinity")
    assert names(place(3, asked, hosts, POLICIES["spread"], together)) == ["h2", "h2", "h2"]


def _known(**changes: object) -> Known:
    known = Known(VM, "web", VmState.RUNNING, Desired.RUNNING, "h1", busy=False)
    return replace(known, **changes)  # type: ignore[arg-type]


def _world(here: set[str], there: set[str], *domains: DomainSeen) -> World:
    use = StorageUse(1, 1)
    return World(
        (HostSeen(HERE, domains=domains), HostSeen(THERE)),
        (
            StoreSeen("local:///x", "h1", frozenset(here), use),
            StoreSeen("local:///x", "h2", frozenset(there), use),
        ),
    )


DISK, SEED = f"vm-{VM}-disk0.qcow2", f"vm-{VM}-seed.iso"
VOLUME = "volume-0c0ffee0-0000-4000-8000-000000000002.qcow2"
RUNS = DomainSeen(f"vm-{VM}", "running", VM, "site")


def test_copies_that_a_migration_left_are_found() -> None:
    assert compare("site", [_known()], _world({DISK}, {DISK, SEED}, RUNS)).copies == [(VM, "h2")]
    assert compare("site", [_known()], _world({DISK}, set(), RUNS)).copies == []


def test_a_copy_of_an_attached_disk_is_found_by_whose_it_is() -> None:
    def found(here: set[str], there: set[str], of: str = VM) -> Differences:
        return compare("site", [_known()], _world({DISK, *here}, there, RUNS), {VOLUME: of})

    assert found({VOLUME}, {VOLUME}).copies == [(VM, "h2")]
    assert found({VOLUME}, {f"{VOLUME}.part-dead"}).copies == [(VM, "h2")]
    assert found(set(), {VOLUME, SEED}).copies == [], "the only one that there is"
    assert found(set(), {VOLUME}, "").copies == [], "it is kept"
    assert found(set(), {VOLUME}).report == []
    assert [f.object for f in found(set(), {"volume-other.qcow2"}).report] == ["volume-other.qcow2"]


@pytest.mark.parametrize(
    ("known", "world"),
    [
        (_known(busy=True), _world({DISK}, {DISK}, RUNS)),
        (_known(state=VmState.MIGRATING, target="h2"), _world({DISK}, {DISK}, RUNS)),
        (_known(), _world({DISK}, {DISK})),
        (_known(), _world({SEED}, {DISK}, RUNS)),
        (_known(host="h2"), _world({DISK}, {DISK}, RUNS)),
    ],
    ids=["busy", "on its way", "not seen", "the only disk", "elsewhere than thought"],
)
def test_no_copy_is_found_where_the_machine_is_not_whole_elsewhere(known: Known, world: World) -> None:
    assert compare("site", [known], world).copies == []


def test_files_of_an_ended_machine_are_left_where_they_are_seen() -> None:
    gone = _known(state=VmState.GONE)
    assert compare("site", [gone], _world(set(), {SEED})).leftover == [(VM, "h2")]


def test_a_machine_without_room_is_reported_and_adopted_as_paused() -> None:
    stalled = replace(RUNS, state="paused", stalled=True)
    found = compare("site", [_known()], _world({DISK}, set(), stalled))
    assert found.adopt == {VM: (VmState.PAUSED, "h1")}
    (told,) = found.report
    assert "no room for what it writes" in told.what
    assert "vdc vm resume web" in told.action
