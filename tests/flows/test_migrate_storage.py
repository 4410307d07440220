"""Machines whose disks each host has for itself, and such as are stopped for a move: whatever fails, one is
whole on one host, with what its guest wrote, and nothing of it is left on the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.flows import run
from tests.flows.conftest import LEASE_S
from tests.flows.engine import Engine
from tests.flows.forms import FORMS
from tests.flows.processes import Processes
from tests.flows.site import ACTOR, Site, once, settings
from tests.flows.test_migrate import operation, whole
from vdc import specs
from vdc.claims.migrate import claim_migrate
from vdc.errors import Invalid, NoCapacity, OperationFailed, Unsupported
from vdc.inventory import read_session, write_session
from vdc.model import Abilities
from vdc.requests import MigrateRequest
from vdc.schema import Cdrom, Datastore, Disk, Host, HostDatastore, Image, Vm
from vdc.states import VmState


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    """Two simulated hosts, each with a part of the datastore for itself."""
    with (
        Site.copied(shared=False) as made,
        settings(database_url=made.url, operation_lease_s=LEASE_S),
    ):
        yield made


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine `web` on h1, whose guest wrote `mark` on its disk."""
    site.with_machine("web")
    assert site.spec("web").host.name == "h1"
    site.sim.write_guest(site.spec("web").domain, disk="mark")
    return site


def move(**request: Any) -> str:
    """For processes: a function that can be pickled."""
    return run.migrate("web", "h2", with_storage=True, **request)


def cold() -> str:
    return move(cold=True)


def intact(site: Site, host: str, leases: list[str], state: VmState = VmState.RUNNING) -> None:
    whole(site, host, leases, state)
    assert site.sim.read_guest(site.spec("web").domain)[0] == "mark"


BEFORE = (
    ("h1", "hypervisor.ensure_settled"),
    *[("h2", "network.ensure_network")] * 2,
    ("h2", "network.ensure_ports"),
)
AFTER = (
    ("h1", "hypervisor.ensure_settled"),
    ("h1", "network.ensure_ports_removed"),
    ("h2", "hypervisor.read_domain"),
    ("h1", "datastore.ensure_removed"),
)
LIVE = (
    *BEFORE,
    ("h1", "hypervisor.read_domain"),
    ("h2", "datastore.ensure_removed"),
    ("h2", "datastore.ensure_disk"),
    ("h2", "datastore.ensure_seed"),
    ("h1", "hypervisor.ensure_migrated"),
    *AFTER,
)
STOPPED = (
    *BEFORE,
    ("h1", "hypervisor.read_domain"),
    ("h2", "datastore.ensure_removed"),
    ("h2", "datastore.ensure_disk_from"),
    ("h2", "datastore.ensure_seed"),
    ("h2", "hypervisor.ensure_defined"),
    ("h1", "hypervisor.read_domain"),
    ("h1", "hypervisor.ensure_removed"),
    *AFTER,
)
RESTARTED = (
    *BEFORE,
    ("h1", "hypervisor.ensure_shut_down"),
    *STOPPED[4:9],
    ("h2", "hypervisor.ensure_started"),
    *STOPPED[9:11],
    AFTER[0],
    *BEFORE[1:],
    ("h2", "hypervisor.ensure_started"),
    *AFTER[1:],
)


def calls(site: Site, since: int) -> list[tuple[str, str]]:
    return [(c.host, c.call) for c in site.sim.log(since=since)]


@pytest.mark.prefect
def test_it_goes_over_with_its_disk_and_leaves_none(web: Site) -> None:
    leases, events, before = web.leases(), web.events("web"), web.sim.call_count()
    move()
    assert calls(web, before) == list(LIVE)
    intact(web, "h2", leases)
    assert web.events("web") == events, "it is billed as before"
    assert run.reconcile() == []
    run.power("stop", "web", hard=True)
    before = web.sim.call_count()
    run.migrate("web", "h1", with_storage=True)
    assert [call for _, call in calls(web, before)] == [call for _, call in STOPPED]
    intact(web, "h1", leases, VmState.STOPPED)
    run.power("start", "web")
    intact(web, "h1", leases)
    run.terminate("web")
    web.assert_agrees()


def test_it_is_stopped_moved_and_started_in_one_operation(web: Site) -> None:
    leases, events, before = web.leases(), web.events("web"), web.sim.call_count()
    done = operation(web, cold())
    assert calls(web, before) == list(RESTARTED)
    assert (done.kind, done.outcome) == ("migrate", "done")
    assert done.result is not None
    assert (done.result["cold"], done.result["restarted"]) == (True, True)
    assert 0 <= done.result["downtime_s"] <= done.result["total_s"]
    intact(web, "h2", leases)
    assert web.events("web") == events
    assert run.reconcile() == []


def test_a_disk_that_was_attached_comes_along_and_is_kept_where_it_came_out(web: Site) -> None:
    run.attach_disk("web", size_mib=8, name="data")
    leases, file = web.leases(), web.spec("web").disks[1].file
    move()
    intact(web, "h2", leases)
    # Half removed on the host that it came from: what is left there is of its second disk alone.
    web.sim.add_file("shared", file, 1, "h1")
    assert [(f.what, f.action) for f in run.reconcile()] == [("disk left by a migration", "removed")]
    intact(web, "h2", leases)
    run.migrate("web", "h1", with_storage=True, cold=True)
    intact(web, "h1", leases)
    move()
    run.detach_disk("web", "data", keep=True)
    intact(web, "h2", leases)
    run.attach_disk("web", volume="data")
    intact(web, "h2", leases)


def test_a_drain_takes_disks_along_where_that_is_asked_for(web: Site) -> None:
    with pytest.raises(OperationFailed):
        run.drain("h1")
    intact(web, "h1", web.leases())
    run.drain("h1", with_storage=True)
    intact(web, "h2", web.leases())


def test_what_cannot_be_is_refused_and_nothing_is_touched(web: Site) -> None:
    def refused(error: type[Exception], message: str, **request: Any) -> None:
        before, count = web.rows(), web.sim.call_count()
        with pytest.raises(error, match=message):
            run.migrate("web", "h2", **request)
        assert (web.rows(), web.sim.call_count()) == (before, count)

    refused(Unsupported, r"each host has for itself: it can be taken along \(--with-storage\)")
    refused(Invalid, "web is stopped for it: bandwidth", with_storage=True, cold=True, bandwidth_mib_s=1)
    with write_session(web.url) as session:
        session.query(HostDatastore).update({"capacity_mib": 100, "free_mib": 50})
        session.query(Datastore).update({"overcommit": 0.5})
    refused(NoCapacity, "h2 refused: datastore shared there: 0 of 50 MiB are promised", with_storage=True)
    with pytest.raises(NoCapacity, match="web on host h1 gets no disk: datastore shared: 64 of 50 MiB are"):
        run.attach_disk("web", size_mib=1)
    with write_session(web.url) as session:
        (image,) = session.query(Image)
        image.iso = True
        (vm,) = session.query(Vm)
        session.add(Cdrom(vm_id=vm.id, index=0, image_id=image.id))
    refused(Unsupported, r"ISO image of datastore shared in a drive.*`vdc vm disk detach`", with_storage=True)


FAILURES = (
    ("live", "h1", "hypervisor.ensure_settled", "fails", "h1"),
    ("live", "h2", "network.ensure_network", "unreachable-for-too-long", "h1"),
    ("live", "h2", "datastore.ensure_removed", "busy-then-fine", "h2"),
    ("live", "h2", "datastore.ensure_disk", "stops-halfway", "h1"),
    ("live", "h2", "datastore.ensure_seed", "happens-but-the-answer-is-lost", "h1"),
    ("live", "h1", "hypervisor.ensure_migrated", "fails", "h1"),
    ("live", "h1", "hypervisor.ensure_migrated", "happens-but-times-out", "h2"),
    ("live", "h1", "datastore.ensure_removed", "unreachable-for-too-long", "h2"),
    ("cold", "h1", "hypervisor.ensure_shut_down", "fails", "h1"),
    ("cold", "h2", "datastore.ensure_disk_from", "stops-halfway", "h1"),
    ("cold", "h2", "hypervisor.ensure_defined", "happens-but-the-answer-is-lost", "h1"),
    ("cold", "h2", "hypervisor.ensure_started", "fails", "h1"),
    ("cold", "h2", "hypervisor.ensure_started", "happens-but-the-answer-is-lost", "h2"),
    ("cold", "h1", "hypervisor.ensure_removed", "happens-but-times-out", "h2"),
    ("cold", "h2", "hypervisor.read_domain", "fails", "h2"),
)


@pytest.mark.parametrize(("how", "host", "call", "form", "ends"), FAILURES)
def test_a_failed_call_leaves_it_whole_on_one_host(
    web: Site, how: str, host: str, call: str, form: str, ends: str
) -> None:
    leases = web.leases()
    web.sim.fail_next(call, host=host, **FORMS[form])
    failed = ""
    try:
        move(cold=how == "cold")
    except OperationFailed as error:
        failed = str(error)
    assert failed.startswith("web stayed on host h1: Step '") is (ends == "h1"), failed
    # What could not be removed just then is removed by and by, and nothing else is.
    left = [("disk left by a migration", "removed")]
    late = (host, call) in (AFTER[2], AFTER[3])
    assert [(f.what, f.action) for f in run.reconcile()] == (left if late else [])
    intact(web, ends, leases)
    assert run.reconcile() == []


@pytest.mark.parametrize(
    ("how", "n", "ends"),
    [("live", 9, "h1"), ("live", 10, "h2"), ("cold", 9, "h1"), ("cold", 11, "h1"), ("cold", 12, "h2")],
)
def test_killed_before_a_call_it_is_whole_on_one_host(
    web: Site, start: Processes, how: str, n: int, ends: str
) -> None:
    leases = web.leases()
    web.sim.hold("*", skip=n - 1)
    child = start.start(move if how == "live" else cold)
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    action = "migration finished" if ends == "h2" else "migration did not happen; it is where it was"
    assert [(f.what, f.action) for f in run.reconcile()] == [("interrupted operation", action)]
    intact(web, ends, leases)
    assert run.reconcile() == []


def test_an_image_is_gone_from_every_host_that_had_it(site: Site) -> None:
    run.deploy(count=2, name="web")
    run.terminate("web-1", "web-2")
    with write_session(site.url) as session:
        from vdc.catalog import delete_template

        delete_template(session, "tiny", actor="test")
    site.sim.host_down("h2")
    with pytest.raises(OperationFailed, match="vdc reconcile"):
        run.delete_image("tiny")
    site.sim.host_up("h2")
    assert [f.action for f in run.reconcile() if f.object == "image/tiny"] == ["removed"]
    assert site.sim.snapshot_state()["files"] == {}
    with read_session(site.url) as session:
        assert session.query(Datastore).count() == 1


def test_all_its_disks_must_have_room_where_it_goes(web: Site) -> None:
    """Its second disk is in a datastore of its own, whose part on h2 is too small for it."""
    run.attach_disk("web", size_mib=40, name="data")
    other = "simulated:///other"
    with write_session(web.url) as session:
        hosts = {host.name: host.id for host in session.scalars(select(Host))}
        store = Datastore(name="other", uri=other, disk_format="qcow2", shared=False, overcommit=1.0)
        session.add(store)
        session.flush()
        for name, mib in (("h1", 100), ("h2", 39)):
            session.add(
                HostDatastore(host_id=hosts[name], datastore_id=store.id, capacity_mib=mib, free_mib=mib)
            )
        session.execute(update(Disk).where(Disk.index == 1).values(datastore_id=store.id))
        vm = session.scalars(select(Vm)).one()
        root, data = specs.load(vm.spec).disks
        moved = replace(specs.load(vm.spec), disks=(root, replace(data, datastore_uri=other)))
        vm.spec = specs.dump(moved)
    can = Abilities(
        migrating=frozenset(web.sim.host(name).uri for name in hosts),
        movable=frozenset({other, web.sim.datastore_uri()}),
    )
    asked = MigrateRequest(vm="web", to="h2", with_storage=True)
    says = r"h2 refused: datastore other there: 0 of 39 MiB are promised \(1 times its size\), 40 more asked"
    with write_session(web.url, commit=False) as session, pytest.raises(NoCapacity, match=says):
        claim_migrate(session, asked, can, actor=ACTOR)
    with write_session(web.url, commit=False) as session:
        session.execute(update(HostDatastore).values(capacity_mib=1000, free_mib=1000))
        assert claim_migrate(session, asked, can, actor=ACTOR).target.name == "h2"
