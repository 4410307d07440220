"""Routers: made, told, made anew and removed, whatever fails or dies on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import select

from drivers import router
from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import ACTOR, Site, once, settings
from vdc import catalog, specs
from vdc.claims.hosts import set_enabled
from vdc.claims.marks import rename
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, OperationFailed
from vdc.inventory import read_session, write_session
from vdc.model import RouterSpec
from vdc.names import find
from vdc.reconciliation import Finding
from vdc.routers import listing
from vdc.schema import Image, PortForward, Router, Sample, Template, UsageEvent, Vm, Vnet, utc_now
from vdc.states import VmState

CIDR, GATEWAY = "10.20.0.0/24", "10.20.0.1"


def furnish(site: Site, tenants: Sequence[str] = ("acme",)) -> Site:
    """A public network, a template of routers, and tenants with networks that have a gateway."""
    made: dict[str, Any] = {"uri": site.sim.network_uri(), "needs_vlan": True, "actor": ACTOR}
    with write_session(site.url) as session:
        catalog.create_vnet(
            session,
            "public",
            vlan_id=200,
            cidr="203.0.113.0/24",
            gateway="203.0.113.1",
            dns=["203.0.113.53"],
            public=True,
            **made,
        )
        catalog.create_template(
            session, "router", image="tiny", vcpu=1, memory_mib=32, vnets=["public"], actor=ACTOR
        )
        for vlan_id, name in enumerate(tenants, 201):
            tenant = catalog.create_tenant(session, name, actor=ACTOR)
            net = catalog.create_vnet(
                session, f"{name}-net", vlan_id=vlan_id, cidr=CIDR, gateway=GATEWAY, **made
            )
            net.tenant_id = tenant.id
    return site


@pytest.fixture
@once
def routed(site: Site) -> Site:
    """Tenant acme, with a router of its network and machine web-1 on it."""
    furnish(site)
    run.create_router("acme-net")
    run.deploy(name="web-1", tenant="acme", vnets=["acme-net"], memory_mib=16)
    return site


def spec_of(site: Site, vm: str = "acme-net-router") -> RouterSpec:
    with read_session(site.url) as session:
        query = select(Vm.spec).where(Vm.name == vm, Vm.ended_at.is_(None))
        known = specs.load(session.scalars(query).one()).context.router
    assert known is not None
    return known


def lead_to_web_1(port: int) -> None:
    run.forward_port("add", "acme-net", port, vm="web-1")


def knows(site: Site) -> dict[str, str]:
    """Name -> address of what the router, that runs, has put into force."""
    with read_session(site.url) as session:
        row = session.scalars(select(Router)).one()
        told, vm_id = row.told, row.vm_id
    known = spec_of(site)
    assert told == known.digest, "it was told"
    assert site.sim.router(f"vm-{vm_id}") == f"{router.DIGEST}{known.digest}", "and has read it"
    return {lease.name: lease.address for lease in known.leases}


def forwards(site: Site) -> list[tuple[int, str, int]]:
    return [(f.port, f.address, f.to_port) for f in spec_of(site).forwards]


@pytest.mark.prefect
def test_a_router_knows_the_machines_of_its_network(routed: Site) -> None:
    router_spec = routed.spec("acme-net-router")
    public, private = router_spec.nics
    assert (public.address, private.address) == ("203.0.113.2", GATEWAY)
    assert (public.routes, private.routes) == (False, True), "only its private card forwards for others"
    assert knows(routed) == {"acme-net-router": GATEWAY, "web-1": "10.20.0.2"}
    assert routed.spec("web-1").nics[0].vnet.dns == (GATEWAY,)
    known = spec_of(routed)
    assert (known.domain, known.resolvers) == ("acme.internal", ("203.0.113.53",))
    run.forward_port("add", "acme-net", 8080, vm="web-1", to_port=80)
    assert forwards(routed) == [(8080, "10.20.0.2", 80)]
    knows(routed)
    with write_session(routed.url) as session:
        rename(session, "web-1", "shop", actor=ACTOR)
    run.tell_router("acme-net")
    assert set(knows(routed)) == {"acme-net-router", "shop"}
    run.terminate("shop")
    assert set(knows(routed)) == {"acme-net-router"}
    assert forwards(routed) == []
    assert run.reconcile() == []
    routed.assert_agrees()


def test_it_is_charged_as_a_machine_with_a_public_address(routed: Site) -> None:
    with read_session(routed.url) as session:
        query = select(UsageEvent.addresses).join(Vm, Vm.id == UsageEvent.vm_id)
        made = query.where(UsageEvent.kind == "created")
        assert session.scalars(made.where(Vm.name == "acme-net-router")).all() == [1]
        assert session.scalars(made.where(Vm.name == "web-1")).all() == [0]
    assert routed.use("acme").addresses == 1


def test_a_card_that_comes_and_goes_is_known(routed: Site) -> None:
    run.deploy(name="db", tenant="acme", vnets=["blue"], memory_mib=16)
    assert "db" not in knows(routed)
    run.attach_nic("db", "acme-net")
    assert knows(routed)["db"] == "10.20.0.3"
    run.detach_nic("db", "acme-net")
    assert "db" not in knows(routed)
    routed.assert_agrees()


@pytest.mark.parametrize("call", ["ensure_seed", "refresh_seed", "run_in_guest"])
def test_a_machine_is_made_also_where_the_router_cannot_be_told(routed: Site, call: str) -> None:
    host = routed.spec("acme-net-router").host.name
    other = "h2" if host == "h1" else "h1"
    with write_session(routed.url) as session:
        set_enabled(session, host, False, actor=ACTOR)
    with settings(database_url=routed.url, retries=0):
        routed.sim.fail_next(call, host=host, times=5)
        run.deploy(name="web-2", tenant="acme", vnets=["acme-net"], memory_mib=16)
    routed.sim.clear()
    assert routed.spec("web-2").host.name == other
    assert routed.machines()["web-2"] == VmState.RUNNING
    findings = run.reconcile()
    assert findings == [Finding("router does not know all", "router/acme-net", host, "told")]
    assert "web-2" in knows(routed)
    assert run.reconcile() == []
    routed.assert_agrees()


def test_a_forward_is_written_down_first(routed: Site) -> None:
    with settings(database_url=routed.url, retries=0):
        routed.sim.fail_next("hypervisor.run_in_guest", times=2)
        with pytest.raises(OperationFailed, match="does not know it yet"):
            run.forward_port("add", "acme-net", 22, vm="web-1")
    routed.sim.clear()
    assert [f.action for f in run.reconcile()] == ["told"]
    assert forwards(routed) == [(22, "10.20.0.2", 22)]
    knows(routed)


def test_a_router_that_forgot_is_told_again(routed: Site) -> None:
    """Taken back to an old state by whatever: what it has in force is asked, not believed."""
    vm = routed.spec("acme-net-router")
    routed.sim.forget(vm.domain)
    assert run.reconcile() == [Finding("router does not know all", "router/acme-net", vm.host.name, "told")]
    knows(routed)
    routed.sim.fail_next("hypervisor.run_in_guest", times=1)
    assert [f.what for f in run.reconcile()] == ["router does not answer"]
    assert run.reconcile() == []


def test_it_is_told_while_it_is_off(routed: Site) -> None:
    run.power("stop", "acme-net-router")
    run.forward_port("add", "acme-net", 80, vm="web-1")
    run.power("start", "acme-net-router")
    assert forwards(routed) == [(80, "10.20.0.2", 80)]
    knows(routed)
    assert run.reconcile() == []


def test_it_is_made_anew_with_what_it_knew(routed: Site) -> None:
    run.forward_port("add", "acme-net", 80, vm="web-1")
    before, machine = knows(routed), routed.spec("acme-net-router")
    events = routed.events("acme-net-router")
    run.clone_image("tiny", "newer")
    with write_session(routed.url) as session:
        template = find(session, Template, "template", "router")
        template.image_id = find(session, Image, "image", "newer").id
    run.redeploy_router("acme-net")
    after = routed.spec("acme-net-router")
    assert after.nics == machine.nics
    assert after.disks[0].image != machine.disks[0].image
    assert knows(routed) == before
    assert forwards(routed) == [(80, "10.20.0.2", 80)]
    assert routed.events("acme-net-router") == events, "it is charged as before"
    assert run.reconcile() == []
    routed.assert_agrees()


@pytest.mark.parametrize("call", ["ensure_removed", "ensure_disk", "ensure_defined", "ensure_started"])
def test_a_redeployment_that_fails_is_made_good(routed: Site, call: str) -> None:
    with settings(database_url=routed.url, retries=0):
        routed.sim.fail_next(call)
        with pytest.raises(OperationFailed):
            run.redeploy_router("acme-net")
    routed.sim.clear()
    assert routed.machines()["acme-net-router"] == VmState.MISSING
    run.reconcile()
    assert routed.machines()["acme-net-router"] == VmState.RUNNING
    assert routed.events("acme-net-router").count("started") == 2, "not charged while it was lost"
    knows(routed)
    assert run.reconcile() == []
    routed.assert_agrees()


@pytest.mark.parametrize("call", ["ensure_removed", "ensure_defined", "ensure_started"])
def test_a_redeployment_whose_process_died_is_finished(routed: Site, start: Processes, call: str) -> None:
    routed.sim.hold(f"hypervisor.{call}")
    child = start.start(run.redeploy_router, "acme-net")
    routed.sim.wait_until_held()
    child.kill()
    routed.sim.clear()
    assert [f.action for f in run.reconcile()] == ["redeployment finished"]
    knows(routed)
    assert run.reconcile() == []
    routed.assert_agrees()


def test_a_telling_whose_process_died_is_finished(routed: Site, start: Processes) -> None:
    routed.sim.hold("hypervisor.run_in_guest")
    child = start.start(lead_to_web_1, 80)
    routed.sim.wait_until_held()
    child.kill()
    routed.sim.clear()
    run.reconcile()
    assert forwards(routed) == [(80, "10.20.0.2", 80)]
    knows(routed)
    assert run.reconcile() == []
    routed.assert_agrees()


@pytest.mark.parametrize("call", ["ensure_network", "ensure_disk", "ensure_seed", "ensure_started"])
def test_a_router_that_could_not_be_made_leaves_nothing(site: Site, call: str) -> None:
    furnish(site)
    before = site.snapshot()
    with settings(database_url=site.url, retries=0):
        site.sim.fail_next(call)
        with pytest.raises(OperationFailed):
            run.create_router("acme-net")
    site.sim.clear()
    assert site.snapshot() == before
    with read_session(site.url) as session:
        assert listing(session) == []
        assert session.scalars(select(Vnet.dns).where(Vnet.name == "acme-net")).one() == []
    run.create_router("acme-net")
    knows(site)
    site.assert_agrees()


def test_when_it_goes_all_of_it_goes(routed: Site) -> None:
    run.forward_port("add", "acme-net", 80, vm="web-1")
    run.delete_router("acme-net")
    with read_session(routed.url) as session:
        assert session.query(Router).count() == session.query(PortForward).count() == 0
        assert session.scalars(select(Vnet.dns).where(Vnet.name == "acme-net")).one() == []
    assert routed.machines() == {"acme-net-router": VmState.GONE, "web-1": VmState.RUNNING}
    assert routed.use("acme").addresses == 0
    run.create_router("acme-net", address="203.0.113.9")
    assert spec_of(routed).public_address == "203.0.113.9"
    routed.assert_agrees()


def test_what_cannot_be_is_refused(routed: Site) -> None:
    before = routed.rows()
    for error, says, act in (
        (Conflict, "has a router already: machine acme-net-router", lambda: run.create_router("acme-net")),
        (Invalid, "is the site's", lambda: run.create_router("blue")),
        (NotFound, "no virtual network", lambda: run.create_router("nowhere")),
        (NotFound, "Network blue has no router", lambda: run.delete_router("blue")),
        (InvalidState, "cannot be terminated like any", lambda: run.terminate("acme-net-router")),
        (InvalidState, "cannot be unplugged", lambda: run.detach_nic("acme-net-router", "public")),
        (InvalidState, "cannot be unplugged", lambda: run.detach_nic("acme-net-router", "acme-net")),
        (Invalid, "Port 0 is refused", lambda: run.forward_port("add", "acme-net", 0, vm="web-1")),
        (Invalid, "Say to which", lambda: run.forward_port("add", "acme-net", 80)),
        (NotFound, "no machine", lambda: run.forward_port("add", "acme-net", 80, vm="web-9")),
        (
            Invalid,
            "has no card on network",
            lambda: run.forward_port("add", "acme-net", 80, vm="acme-net-router"),
        ),
        (
            NotFound,
            "It forwards none",
            lambda: run.forward_port("remove", "acme-net", 80),
        ),
    ):
        with pytest.raises(error, match=says):
            act()
    assert routed.rows() == before
    run.forward_port("add", "acme-net", 80, vm="web-1")
    with pytest.raises(Conflict, match="leads to web-1:80 already"):
        run.forward_port("add", "acme-net", 80, vm="web-1", to_port=81)


def test_a_template_or_a_network_that_is_none_of_a_router_is_refused(site: Site) -> None:
    furnish(site)
    with pytest.raises(Invalid, match="Template tiny is none of a router"):
        run.create_router("acme-net", template="tiny")
    with write_session(site.url) as session:
        vnet = find(session, Vnet, "virtual network", "acme-net")
        vnet.gateway = None
    with pytest.raises(Invalid, match="without a gateway"):
        run.create_router("acme-net")
    with write_session(site.url) as session:
        vnet = find(session, Vnet, "virtual network", "acme-net")
        vnet.cidr, vnet.gateway = "203.0.113.128/25", "203.0.113.129"
    with pytest.raises(Invalid, match="addresses in common"):
        run.create_router("acme-net")
    assert site.machines() == {}


def test_two_tellings_at_once_leave_it_knowing_all(routed: Site, start: Processes) -> None:
    """While one is held in the middle of telling it, another machine comes: the first tells that too."""
    routed.sim.hold("hypervisor.run_in_guest")
    child = start.start(lead_to_web_1, 80)
    routed.sim.wait_until_held()
    run.deploy(name="web-2", tenant="acme", vnets=["acme-net"], memory_mib=16)
    routed.sim.clear()
    assert child.answer().error == ""
    assert set(knows(routed)) == {"acme-net-router", "web-1", "web-2"}
    assert run.reconcile() == []


def test_what_passes_through_it_is_charged_as_the_machines(routed: Site) -> None:
    from datetime import timedelta

    from vdc.metering import record_traffic

    at = utc_now() - timedelta(hours=2)
    with write_session(routed.url) as session:
        for vm in session.scalars(select(Vm)):
            for minutes, sent in ((0, 0), (10, 5000)):
                counters = dict.fromkeys(("cpu_s", "disk_read_bytes", "disk_write_bytes", "net_rx_bytes"), 0)
                when = at + timedelta(minutes=minutes)
                session.add(Sample(vm_id=vm.id, at=when, net_tx_bytes=sent, **counters))
        session.flush()
        assert record_traffic(session, actor=ACTOR) == 1
    assert "traffic" in routed.events("web-1")
    assert "traffic" not in routed.events("acme-net-router")


def _vdc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)
    seen = capsys.readouterr()
    return code, seen.out, seen.err


def test_the_commands(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("running", "engine"):
        monkeypatch.setattr(f"interfaces.cli.{module}.use_prefect", lambda: None)
    furnish(site)
    before = site.rows()
    code, plan, _ = _vdc(capsys, "router", "create", "acme-net", "--plan")
    assert (code, site.rows()) == (0, before)
    assert "203.0.113.2 on public, 10.20.0.1 on acme-net." in plan
    assert "EUR a month" in plan
    with settings(database_url=site.url):
        assert "No router yet" in "".join(_vdc(capsys, "router", "list")[1:])
        code, said, err = _vdc(capsys, "router", "create", "acme-net", "--address", "203.0.113.7")
        assert (code, said.count("203.0.113.7")) == (0, 1), err
        run.deploy(name="web-1", tenant="acme", vnets=["acme-net"], memory_mib=16)
        for to, exit_code in (("web-1:x", 2), ("web-9:80", 3), ("web-1:80", 0), ("web-1:81", 3)):
            assert _vdc(capsys, "router", "forward", "add", "acme-net", "tcp", "8080", to)[0] == exit_code
        assert _vdc(capsys, "vm", "rename", "web-1", "shop")[0] == 0
        assert knows(site)["shop"] == "10.20.0.2"
        shown = json.loads(_vdc(capsys, "router", "show", "acme-net", "--json")[1])
        assert shown["forwards"] == [{"protocol": "tcp", "port": 8080, "vm": "shop", "to_port": 80}]
        assert (shown["public_address"], shown["machines"]) == ("203.0.113.7", 1)
        code, plan, _ = _vdc(capsys, "router", "redeploy", "acme-net", "--plan")
        assert (code, "make it anew there" in plan) == (0, True)
        assert _vdc(capsys, "router", "redeploy", "acme-net")[0] == 0
        remove = ("router", "forward", "remove", "acme-net", "tcp", "8080")
        assert "these forwards: none." in _vdc(capsys, *remove, "--plan")[1]
        assert _vdc(capsys, *remove)[0] == 0
        assert "is free then" in _vdc(capsys, "router", "delete", "acme-net", "--plan")[1]
        assert _vdc(capsys, "router", "delete", "acme-net", "--json")[0] == 0
        assert _vdc(capsys, "router", "show", "acme-net")[0] == 3
    site.assert_agrees()
