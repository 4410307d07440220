"""Disks, drives and network cards of machines on simulated hosts: plugged in and taken out, kept and removed,
and rows, hosts and bill say the same whatever fails and whoever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from sqlalchemy import select

from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import ACTOR, Site, once
from vdc import catalog, specs
from vdc.claims.images import claim_import, record_imported
from vdc.errors import (
    Conflict,
    Forbidden,
    Invalid,
    InvalidState,
    NoCapacity,
    NotFound,
    OperationFailed,
    QuotaExceeded,
    Unsupported,
)
from vdc.inventory import read_session, write_session
from vdc.requests import ImportImageRequest
from vdc.schema import Disk, Host, HostDatastore, Image, Nic, Tenant, UsageEvent, Vm, Vnet, Volume
from vdc.states import VmState
from vdc.tariff_file import version_of
from vdc.tariffs import add_tariff


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine `web` on h1, and an ISO image `tools`."""
    run.deploy(count=1, name="web")
    with write_session(site.url) as session:
        image = claim_import(
            session,
            ImportImageRequest(file="/tools.iso", name="tools", datastore="shared"),
            size_mib=1,
            virtual_size_mib=1,
            sha256="",
            stored_sha256="",
            iso=True,
            actor=ACTOR,
        )
        record_imported(session, image)
        site.sim.add_file("shared", image.image.file, 2**20)
    return site


def attach(what: dict[str, Any]) -> str:
    """For processes: a function that can be pickled."""
    return run.attach_disk("web", **what)


def detach(disk: str, keep: bool) -> str:
    return run.detach_disk("web", disk, keep=keep)


def disks(site: Site, name: str = "web") -> dict[str, int]:
    """Of a machine, by name: MiB. Hosts and rows agree."""
    site.assert_agrees()
    return {disk.name: disk.size_mib for disk in site.spec(name).disks}


def volumes(site: Site) -> dict[str, str]:
    """State of each disk of its own that there ever was."""
    with read_session(site.url) as session:
        return {volume.name: volume.state for volume in session.scalars(select(Volume))}


def billed(site: Site) -> list[tuple[str, str, int]]:
    """Usage events in order: of what, which, MiB of disk."""
    with read_session(site.url) as session:
        names = {vm.id: vm.name for vm in session.scalars(select(Vm))}
        names |= {volume.id: volume.name for volume in session.scalars(select(Volume))}
        # Of one instant the machine's comes first.
        events = session.scalars(
            select(UsageEvent).order_by(UsageEvent.at, UsageEvent.volume_id.is_not(None), UsageEvent.kind)
        )
        return [(names[str(e.vm_id or e.volume_id)], e.kind, e.disk_mib) for e in events]


BIRTH = [("web", "created", 64), ("web", "started", 64)]


@pytest.mark.prefect
def test_a_new_disk_comes_while_it_runs_and_goes_with_the_machine(web: Site) -> None:
    boots = web.sim.boots(web.spec("web").domain)
    before = web.sim.call_count()
    run.attach_disk("web", size_mib=100, name="data")
    assert [c.call for c in web.sim.log(since=before)] == [
        "datastore.ensure_disk",
        "hypervisor.ensure_attached",
        "hypervisor.ensure_defined",
    ]
    assert disks(web) == {"root": 64, "data": 100}
    assert web.use().disk_mib == 164
    assert billed(web) == [*BIRTH, ("web", "disk-attached", 164)]
    assert web.sim.boots(web.spec("web").domain) == boots, "it ran on"
    assert run.reconcile() == []

    run.migrate("web", "h2")
    assert disks(web) == {"root": 64, "data": 100}
    run.power("stop", "web")
    run.migrate("web", "h1")
    run.power("start", "web")
    assert disks(web) == {"root": 64, "data": 100}
    web.sim.crash(web.spec("web").domain)
    run.reconcile()
    assert disks(web) == {"root": 64, "data": 100}
    run.terminate("web")
    web.assert_agrees()
    assert volumes(web) == {"data": "gone"}
    assert web.use().disk_mib == 0
    assert run.reconcile() == []


def test_a_disk_that_is_kept_is_charged_by_itself_and_goes_to_another_machine(web: Site) -> None:
    run.deploy(count=1, name="db")
    run.attach_disk("web", size_mib=100, name="data")
    before = web.sim.call_count()
    run.detach_disk("web", "data", keep=True)
    assert [c.call for c in web.sim.log(since=before)] == [
        "hypervisor.ensure_detached",
        "hypervisor.ensure_defined",
    ]
    assert disks(web) == {"root": 64}
    assert volumes(web) == {"data": "kept"}
    assert web.use().disk_mib == 64 + 64 + 100, "it counts, kept or not"
    run.attach_disk("db", volume="data")
    assert disks(web, "db") == {"root": 64, "data": 100}
    assert web.use().disk_mib == 64 + 64 + 100
    run.detach_disk("db", "data", keep=True)
    run.remove_disk("data")
    assert volumes(web) == {"data": "gone"}
    assert web.use().disk_mib == 128
    told = [
        event for event in billed(web) if event not in (*BIRTH, ("db", "created", 64), ("db", "started", 64))
    ]
    assert told == [
        ("web", "disk-attached", 164),
        ("web", "disk-detached", 64),
        ("data", "created", 100),
        ("db", "disk-attached", 164),
        ("data", "attached", 0),
        ("db", "disk-detached", 64),
        ("data", "created", 100),
        ("data", "terminated", 0),
    ]
    web.assert_agrees()
    # The name is free again.
    run.attach_disk("web", size_mib=10, name="data")
    run.detach_disk("web", "data")
    assert disks(web) == {"root": 64}
    run.terminate("web", "db")
    web.assert_agrees()
    assert run.verify_problems() == []


def test_disks_are_charged_to_the_microsecond_and_never_twice(web: Site) -> None:
    from reports.usage import charges, read_events, spans
    from vdc.months import Window
    from vdc.schema import utc_now

    run.attach_disk("web", size_mib=100, name="data")
    run.detach_disk("web", "data", keep=True)
    run.attach_disk("web", volume="data")
    run.detach_disk("web", "data", keep=True)
    run.remove_disk("data")
    with read_session(web.url) as session:
        tenants = list(session.scalars(select(Tenant.id)))
        at = {(e.kind, e.disk_mib, n): e.at for n, e in enumerate(session.scalars(select(UsageEvent)))}
        began = min(at.values())
        events = read_events(session, tenants, Window(began, utc_now()))
    of = charges(spans(events, Window(began, utc_now())))
    kept = of[of["machine"] == "disk data"]
    assert set(kept["what"]) == {"disk"}
    assert list(kept["quantity"]) == [100, 100]
    larger = of[(of["machine"] == "web") & (of["quantity"] == 164)]
    assert len(larger) == 2
    # What one stops paying, the other begins to pay at that instant.
    assert list(larger["end"]) == list(kept["begin"])
    assert next(iter(kept["end"])) == list(larger["begin"])[1]


@pytest.mark.prefect
def test_an_iso_image_is_put_into_a_drive(web: Site) -> None:
    run.attach_disk("web", iso="tools")
    web.assert_agrees()
    assert [cdrom.name for cdrom in web.spec("web").cdroms] == ["tools"]
    assert web.use().disk_mib == 64, "it costs nothing"
    assert billed(web) == BIRTH
    with pytest.raises(InvalidState, match="in use: machine web"):
        run.delete_image("tools")
    run.migrate("web", "h2")
    run.power("stop", "web")
    run.power("start", "web")
    web.assert_agrees()
    run.detach_disk("web", "tools")
    web.assert_agrees()
    run.delete_image("tools")
    assert run.reconcile() == []


@pytest.mark.prefect
def test_a_card_comes_with_its_address_and_port_and_goes_with_them(web: Site) -> None:
    seed = web.sim.file_checksum("shared", web.spec("web").seed_file)
    before = web.sim.call_count()
    run.attach_nic("web", "blue", "10.1.0.77")
    assert [c.call for c in web.sim.log(since=before)] == [
        "network.ensure_network",
        "network.ensure_ports",
        "datastore.ensure_seed",
        "hypervisor.refresh_seed",
        "hypervisor.ensure_attached",
        "hypervisor.ensure_defined",
    ]
    web.assert_agrees()
    assert [(n.vnet.name, n.address) for n in web.spec("web").nics][2] == ("blue", "10.1.0.77")
    assert web.sim.file_checksum("shared", web.spec("web").seed_file) != seed, "it is told of it"
    run.migrate("web", "h2")
    web.assert_agrees()
    run.power("stop", "web")
    run.attach_nic("web", "green")
    run.power("start", "web")
    web.assert_agrees()
    with pytest.raises(Invalid, match="has 2 cards 'blue'"):
        run.detach_nic("web", "blue")
    run.detach_nic("web", "10.1.0.77")
    run.detach_nic("web", web.spec("web").nics[2].mac)
    web.assert_agrees()
    assert len(web.leases()) == 2
    assert web.sim.file_checksum("shared", web.spec("web").seed_file) == seed
    run.detach_nic("web", "blue")
    assert [n.index for n in web.spec("web").nics] == [1]
    run.attach_nic("web", "blue")
    assert [n.index for n in web.spec("web").nics] == [0, 1]
    web.assert_agrees()
    assert run.reconcile() == []


def test_a_guest_that_does_not_let_go_keeps_it(web: Site) -> None:
    run.attach_disk("web", size_mib=100, name="data")
    run.attach_nic("web", "blue", "10.1.0.77")
    web.sim.give_nothing_back(web.spec("web").domain)
    with pytest.raises(OperationFailed, match="did not let go of disk data within 30 s: it has it still"):
        run.detach_disk("web", "data", keep=True)
    assert disks(web) == {"root": 64, "data": 100}
    assert volumes(web) == {"data": "attached"}
    with pytest.raises(OperationFailed, match=r"did not let go of card 10\.1\.0\.77 on blue"):
        run.detach_nic("web", "10.1.0.77")
    web.assert_agrees()
    assert run.reconcile() == []
    run.power("stop", "web")
    run.detach_disk("web", "data", keep=True)
    run.detach_nic("web", "10.1.0.77")
    assert disks(web) == {"root": 64}
    assert volumes(web) == {"data": "kept"}
    run.power("start", "web")
    web.assert_agrees()


# -- what is refused -------------------------------------------------------------------------------------


def _change(site: Site, table: Any, name: str, **values: Any) -> None:
    with write_session(site.url) as session:
        session.query(table).filter(table.name == name).update(values)


def _other_tenant(site: Site) -> str:
    with write_session(site.url) as session:
        catalog.create_tenant(session, "acme", actor=ACTOR)
        return str(session.scalars(select(Tenant.id).where(Tenant.name == "acme")).one())


def _kept(site: Site) -> None:
    run.attach_disk("web", size_mib=10, name="data")
    run.detach_disk("web", "data", keep=True)


def _of_another(site: Site) -> None:
    _kept(site)
    acme = _other_tenant(site)
    _change(site, Volume, "data", tenant_id=acme, live_name=f"{acme}/data")


def _unmounted(site: Site) -> None:
    _kept(site)
    with write_session(site.url) as session:
        session.query(HostDatastore).delete()


def _unready(site: Site) -> None:
    run.attach_disk("web", size_mib=10, name="data")
    with write_session(site.url) as session:
        session.query(Disk).filter(Disk.volume_id.is_not(None)).update({"ready": False})


def _nothing(site: Site) -> None:
    """It is refused as it is."""


Before = Callable[[Site], object]
Ask = Callable[[], str]
REFUSALS: dict[str, tuple[Before, Ask, type[Exception], str]] = {
    "nothing asked": (_nothing, lambda: run.attach_disk("web"), Invalid, "Say which disk"),
    "two asked": (_nothing, lambda: run.attach_disk("web", size_mib=1, iso="tools"), Invalid, "Say which"),
    "no size": (_nothing, lambda: run.attach_disk("web", size_mib=0), Invalid, "disk of 0 MiB is refused"),
    "too large": (_nothing, lambda: run.attach_disk("web", size_mib=2**40), Invalid, "is refused: 1 to"),
    "bad name": (_nothing, lambda: run.attach_disk("web", size_mib=1, name="../x"), Invalid, "Disk name"),
    "name root": (
        _nothing,
        lambda: run.attach_disk("web", size_mib=1, name="root"),
        Conflict,
        "has a disk 'root'",
    ),
    "name taken": (
        _kept,
        lambda: run.attach_disk("web", size_mib=1, name="data"),
        Conflict,
        "has a disk 'data'",
    ),
    "named volume": (
        _kept,
        lambda: run.attach_disk("web", volume="data", name="x"),
        Invalid,
        "for a new disk",
    ),
    "quota": (
        lambda site: _change(site, Tenant, "default", max_disk_mib=100),
        lambda: run.attach_disk("web", size_mib=37),
        QuotaExceeded,
        "64 of 100 MiB disk used, 37 more asked",
    ),
    "same disk twice": (
        lambda site: run.attach_disk("web", size_mib=1, name="data"),
        lambda: run.attach_disk("web", volume="data"),
        InvalidState,
        "Disk data is attached to machine web",
    ),
    "unknown volume": (_kept, lambda: run.attach_disk("web", volume="nosuch"), NotFound, "Known: data"),
    "volume of another tenant": (
        _of_another,
        lambda: run.attach_disk("web", volume="data"),
        Forbidden,
        "another tenant than default",
    ),
    "volume elsewhere": (
        _unmounted,
        lambda: run.attach_disk("web", volume="data"),
        Unsupported,
        "does not mount",
    ),
    "unknown image": (_nothing, lambda: run.attach_disk("web", iso="/srv"), NotFound, "no image '/srv'"),
    "image of a disk": (_nothing, lambda: run.attach_disk("web", iso="tiny"), Invalid, "is a disk, no ISO"),
    "same image twice": (
        lambda site: run.attach_disk("web", iso="tools"),
        lambda: run.attach_disk("web", iso="tools"),
        InvalidState,
        "in a drive already",
    ),
    "root": (_nothing, lambda: run.detach_disk("web", "root"), Invalid, "starts from disk root"),
    "unknown disk": (
        _nothing,
        lambda: run.detach_disk("web", "data"),
        NotFound,
        "no disk 'data'.*root alone",
    ),
    "disk with snapshots": (
        lambda site: run.snapshot("web", "before", "disk"),
        lambda: run.attach_disk("web", size_mib=1),
        InvalidState,
        r"has snapshots \(before\)",
    ),
    "card with memory kept": (
        lambda site: run.snapshot("web", "before"),
        lambda: run.attach_nic("web", "blue"),
        InvalidState,
        r"has snapshots with memory \(before\)",
    ),
    "half in": (_unready, lambda: run.attach_disk("web", size_mib=1), InvalidState, "half in and half out"),
    "migrated half in": (_unready, lambda: run.migrate("web"), InvalidState, "half in and half out"),
    "disk for a tenant that leaves": (
        lambda site: _change(site, Tenant, "default", state="leaving"),
        lambda: run.attach_disk("web", size_mib=1),
        InvalidState,
        "Tenant default is leaving: its machines get nothing new",
    ),
    "card for a tenant that leaves": (
        lambda site: _change(site, Tenant, "default", state="leaving"),
        lambda: run.attach_nic("web", "blue"),
        InvalidState,
        "is leaving",
    ),
    "paused": (
        lambda site: run.power("pause", "web"),
        lambda: run.attach_disk("web", size_mib=1),
        InvalidState,
        "is paused: `disk attach`",
    ),
    "network of another tenant": (
        lambda site: _change(site, Vnet, "blue", tenant_id=_other_tenant(site)),
        lambda: run.attach_nic("web", "blue"),
        Forbidden,
        "Network blue belongs to another tenant",
    ),
    "unknown network": (_nothing, lambda: run.attach_nic("web", "nosuch"), NotFound, "no virtual network"),
    "network that its host has not": (
        lambda site: _change(site, Host, "h1", networks=[]),
        lambda: run.attach_nic("web", "blue"),
        Unsupported,
        "Host h1 of web has no uplink",
    ),
    "address of another": (
        _nothing,
        lambda: run.attach_nic("web", "blue", "10.1.0.1"),
        Conflict,
        "that of machine web",
    ),
    "address elsewhere": (
        _nothing,
        lambda: run.attach_nic("web", "blue", "10.9.0.1"),
        Invalid,
        "not a host address",
    ),
    "no address": (_nothing, lambda: run.attach_nic("web", "blue", "x"), Invalid, "no IPv4 address"),
    "unknown card": (_nothing, lambda: run.detach_nic("web", "10.9.0.1"), NotFound, "has no card '10.9.0.1'"),
    "disk that is attached removed": (
        lambda site: run.attach_disk("web", size_mib=1, name="data"),
        lambda: run.remove_disk("data"),
        InvalidState,
        "attached to machine web: `vdc vm disk detach web data`",
    ),
}


def _refused(site: Site, cases: Iterable[str]) -> None:
    """Each case is refused with its reason; no row is changed by it, and no host asked."""
    for case in cases:
        _, ask, error, message = REFUSALS[case]
        rows, calls = site.rows(), site.sim.call_count()
        with pytest.raises(error, match=message):
            ask()
        assert site.rows() == rows, case
        assert site.sim.call_count() == calls, case


def test_a_refusal_touches_nothing(web: Site) -> None:
    _refused(web, [case for case, (prepare, *_) in REFUSALS.items() if prepare is _nothing])
    _kept(web)
    _refused(web, [case for case, (prepare, *_) in REFUSALS.items() if prepare is _kept])


@pytest.mark.parametrize("case", [case for case, row in REFUSALS.items() if row[0] not in (_nothing, _kept)])
def test_a_refusal_touches_nothing_either(web: Site, case: str) -> None:
    REFUSALS[case][0](web)
    _refused(web, [case])


def test_more_than_a_machine_takes(web: Site) -> None:
    with write_session(web.url) as session:
        vm = session.scalars(select(Vm)).one()
        vnet = session.scalars(select(Vnet).where(Vnet.name == "blue")).one()
        store = session.scalars(select(Image.datastore_id)).first()
        for n in range(1, 12):
            session.add(
                Disk(vm_id=vm.id, index=n, datastore_id=store, file=f"d{n}", format="raw", size_mib=1)
            )
        for n in range(2, 8):
            session.add(
                Nic(
                    vm_id=vm.id,
                    vnet_id=vnet.id,
                    index=n,
                    address=f"10.1.0.{n + 90}",
                    mac=f"m{n}",
                    device=f"d{n}",
                )
            )
    with pytest.raises(NoCapacity, match="has 12 disks: it takes no more"):
        run.attach_disk("web", size_mib=1)
    with pytest.raises(NoCapacity, match="has 8 network cards: it takes no more"):
        run.attach_nic("web", "blue")


# -- failures: a form for each step, in turn -------------------------------------------------------------

NEW, KEPT = {"size_mib": 100, "name": "more"}, {"volume": "data"}
ATTACH_FAILS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("datastore.ensure_disk", NEW, {"halfway": True}),
    ("hypervisor.ensure_attached", NEW, {"after": True}),
    ("hypervisor.ensure_attached", KEPT, {}),
    ("hypervisor.ensure_defined", NEW, {"error": "TimedOut", "times": 3}),
    ("hypervisor.ensure_defined", KEPT, {"after": True}),
    ("datastore.read_files", KEPT, {}),
]


@pytest.mark.parametrize(("call", "what", "form"), ATTACH_FAILS, ids=lambda v: str(v)[:30])
def test_what_could_not_be_attached_is_taken_back(
    web: Site, call: str, what: dict[str, Any], form: dict[str, Any]
) -> None:
    _kept(web)
    before, events = web.snapshot(), billed(web)
    web.sim.fail_next(call, **form)
    with pytest.raises(OperationFailed, match=r"web did not get disk (more|data): Step '"):
        run.attach_disk("web", **what)
    assert disks(web) == {"root": 64}
    assert web.snapshot() == before
    assert billed(web) == events
    assert run.reconcile() == []
    run.attach_disk("web", **what)
    web.assert_agrees()


@pytest.mark.parametrize(
    ("call", "form"),
    [
        ("network.ensure_network", {}),
        ("network.ensure_ports", {"halfway": True}),
        ("datastore.ensure_seed", {"after": True}),
        ("hypervisor.refresh_seed", {"error": "HostUnreachable", "times": 3}),
        ("hypervisor.ensure_attached", {"halfway": True}),
        ("hypervisor.ensure_defined", {"after": True}),
    ],
)
def test_a_card_that_could_not_be_attached_is_taken_back(web: Site, call: str, form: dict[str, Any]) -> None:
    before = web.snapshot()
    web.sim.fail_next(call, **form)
    with pytest.raises(OperationFailed, match="web did not get card"):
        run.attach_nic("web", "blue")
    web.assert_agrees()
    assert web.snapshot() == before
    assert run.reconcile() == []


@pytest.mark.parametrize(
    ("call", "keep", "form"),
    [
        ("hypervisor.ensure_detached", True, {}),
        ("hypervisor.ensure_detached", False, {"halfway": True}),
        ("hypervisor.ensure_defined", True, {"after": True}),
        ("hypervisor.ensure_defined", False, {"error": "TimedOut", "times": 3}),
        ("datastore.ensure_removed", False, {}),
    ],
)
def test_what_was_half_out_is_taken_out_by_reconcile(
    web: Site, call: str, keep: bool, form: dict[str, Any]
) -> None:
    run.attach_disk("web", size_mib=100, name="data")
    web.sim.fail_next(call, **form)
    with pytest.raises(OperationFailed, match="not known whether web has disk data still"):
        run.detach_disk("web", "data", keep=keep)
    assert web.open_operations() == []
    if keep:
        with pytest.raises(InvalidState, match="is to be kept, and is not out yet"):
            run.terminate("web")
    assert [(f.what, f.action) for f in run.reconcile()] == [("unfinished device", "disk data is out")]
    assert disks(web) == {"root": 64}
    assert volumes(web) == {"data": "kept" if keep else "gone"}
    assert web.use().disk_mib == 64 + 100 * keep
    assert run.reconcile() == []


def test_a_card_half_out_and_a_host_that_was_lost_in_the_middle(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_ports_removed")
    child = start.start(run.detach_nic, "web", "blue")
    web.sim.wait_until_held()
    web.sim.host_down("h1")
    web.sim.release("ensure_ports_removed")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "vdc reconcile" in answer.message
    assert [f.what for f in run.reconcile()] == ["host unreachable"]
    web.sim.host_up("h1")
    assert [(f.what, f.action) for f in run.reconcile()] == [
        ("unfinished device", "card 10.1.0.1 on blue is out")
    ]
    web.assert_agrees()
    assert len(web.leases()) == 1


def test_a_kept_disk_that_could_not_be_removed_is_removed_later(web: Site) -> None:
    _kept(web)
    web.sim.fail_next("datastore.ensure_removed")
    with pytest.raises(OperationFailed, match="Disk data was not removed"):
        run.remove_disk("data")
    with pytest.raises(InvalidState, match="Disk data is removing"):
        run.attach_disk("web", volume="data")
    assert [(f.what, f.object, f.action) for f in run.reconcile()] == [
        ("unfinished removal", "disk/data", "removed")
    ]
    web.assert_agrees()
    assert volumes(web) == {"data": "gone"}


# -- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 4))
def test_killed_before_each_call_of_attaching(web: Site, start: Processes, n: int) -> None:
    web.sim.hold("*", skip=n - 1)
    child = start.start(attach, NEW)
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [(f.what, f.action) for f in run.reconcile()] == [("interrupted operation", "disk more is in")]
    assert disks(web) == {"root": 64, "more": 100}
    assert billed(web) == [*BIRTH, ("web", "disk-attached", 164)]
    assert run.reconcile() == []


@pytest.mark.parametrize(("n", "keep"), [(1, True), (2, True), (3, False)])
def test_killed_before_each_call_of_detaching(web: Site, start: Processes, n: int, keep: bool) -> None:
    run.attach_disk("web", **NEW)
    web.sim.hold("*", skip=n - 1)
    child = start.start(detach, "more", keep)
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [(f.what, f.action) for f in run.reconcile()] == [("interrupted operation", "disk more is out")]
    assert disks(web) == {"root": 64}
    assert volumes(web) == {"more": "kept" if keep else "gone"}
    assert run.reconcile() == []


def test_killed_while_a_kept_disk_is_removed(web: Site, start: Processes) -> None:
    _kept(web)
    web.sim.hold("datastore.ensure_removed")
    child = start.start(run.remove_disk, "data")
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [(f.object, f.action) for f in run.reconcile()] == [("disk/data", "removed")]
    web.assert_agrees()


# -- as typed --------------------------------------------------------------------------------------------


@pytest.fixture
def vdc(web: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a command; returns its exit code."""
    from interfaces.cli.errors import guarded
    from interfaces.cli.main import cli

    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)

    def run_command(*arguments: str) -> int:
        return guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)

    return run_command


def test_as_typed(web: Site, vdc: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    def out() -> str:
        return capsys.readouterr().out

    with write_session(web.url) as session:
        disks_alone = {"disk_gib_month": 1, "vcpu_hour": 0, "memory_gib_hour": 0}
        add_tariff(session, version_of(disks_alone | {"ec2_margin": 1, "currency": "CHF"}), actor=ACTOR)
    rows = web.rows()
    assert vdc("vm", "disk", "attach", "web", "--size", "4G", "--name", "data", "--plan") == 0
    told = out()
    assert "Would attach disk data, 4096 MiB: machine web on h1." in told
    assert "0.06 -> 4.06 CHF a month (730 hours)" in told, "by the tariff in force"
    assert vdc("vm", "nic", "attach", "web", "--vnet", "blue", "--plan", "--json") == 0
    assert json.loads(out())["address"] == "10.1.0.2"
    assert web.rows() == rows
    for wrong in ("4", "4K", "-4G", "G"):
        assert vdc("vm", "disk", "attach", "web", "--size", wrong) == 2
    assert vdc("vm", "disk", "attach", "web") == 2
    assert vdc("vm", "disk", "attach", "web", "--iso", "nosuch") == 3
    assert vdc("vm", "disk", "detach", "web", "root") == 3

    assert vdc("vm", "disk", "attach", "web", "--size", "100m", "--name", "data") == 0
    assert out() == "web on h1 has disk data.\n"
    assert vdc("vm", "disk", "attach", "web", "--iso", "tools") == 0
    assert vdc("vm", "show", "web") == 0
    told = out()
    assert "disk data" in told
    assert "ISO images" in told
    assert vdc("vm", "disk", "detach", "web", "data", "--keep", "--json") == 0
    assert json.loads(out())["kept"] is True
    assert vdc("disk", "list", "--json") == 0
    (row,) = json.loads(out())
    assert (row["name"], row["tenant"], row["state"], row["vm"], row["size_mib"]) == (
        "data",
        "default",
        "kept",
        None,
        100,
    )
    assert vdc("disk", "remove", "data", "--plan") == 0
    assert vdc("disk", "remove", "data") == 0
    assert out().endswith("is removed.\n")
    assert vdc("vm", "nic", "attach", "web", "--vnet", "blue", "--json") == 0
    assert json.loads(out())["vnet"] == "blue"
    assert vdc("vm", "nic", "detach", "web", "10.1.0.2") == 0
    web.assert_agrees()
    assert web.machines() == {"web": VmState.RUNNING}
    assert specs.load(specs.dump(web.spec("web"))) == web.spec("web")
