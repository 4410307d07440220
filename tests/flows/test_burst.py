"""Machines that our hosts cannot take run in a cloud: one instance each, whatever happens in between."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from deployments.lab.ec2.endpoint import AMI, CREDENTIALS, PRICES, Control, uri_of
from drivers import registry
from drivers.contract import Cloud as CloudDriver
from drivers.simulated import host_facts
from tests.flows import run
from tests.flows.conftest import LEASE_S
from tests.flows.engine import Engine
from tests.flows.processes import DEADLINE_S, Processes, processes
from tests.flows.site import ACTOR, Site, settings
from tests.prefect_fixture import free_port
from vdc import clouds, onboarding
from vdc.claims.deploy import DeployPlan, claim_deploy
from vdc.cloud_prices import parse
from vdc.errors import NoCapacity, OperationFailed, QuotaExceeded, Unready
from vdc.inventory import read_session, write_session
from vdc.model import LaunchSpec
from vdc.reconciliation import Finding
from vdc.requests import DeployRequest
from vdc.schema import Cloud, LaunchAttempt, Operation, Tenant, UsageEvent, Vm, new_id, utc_now
from vdc.schema import Site as SiteRow
from vdc.settings import load
from vdc.states import VmState


def _with_cloud(site: Site, uri: str, **limits: Any) -> None:
    prices = parse(PRICES.read_text(), "lab", today=utc_now().date())
    with write_session(site.url) as session:
        clouds.add_cloud(session, "aws", uri, prices, currency="EUR", actor=ACTOR)
        clouds.map_image(session, "tiny", "aws", AMI, actor=ACTOR)
        session.execute(update(Tenant).values(burst_allowed=True, **limits))
        # Inventories of tests are copies of one: in a cloud that they share each is a site of its own.
        session.execute(update(SiteRow).values(id=new_id()))


@contextmanager
def _full_rack(directory: Path) -> Iterator[Site]:
    """One host with room for one machine."""
    site = Site.create(directory, hosts=[host_facts("h1", vcpu=1)])
    with settings(database_url=site.url, operation_lease_s=LEASE_S):
        yield site


@pytest.fixture
def rack(engine: Engine, ec2: Control, tmp_path: Path) -> Iterator[Site]:
    """A small rack beside the real endpoint."""
    with _full_rack(tmp_path) as site:
        _with_cloud(site, ec2.uri)
        yield site


@pytest.fixture
def simulated(engine: Engine, tmp_path: Path) -> Iterator[Site]:
    """A small rack beside a simulated cloud."""
    with _full_rack(tmp_path) as site:
        _with_cloud(site, site.sim.add_cloud("aws"))
        yield site


@pytest.fixture
def start(rack: Site, engine: Engine) -> Iterator[Processes]:
    env = {"VDC_DATABASE_URL": rack.url, "VDC_OPERATION_LEASE_S": str(LEASE_S)}
    with processes(env | CREDENTIALS, engine) as made:
        yield made


def _burst(**request: Any) -> str:
    return run.deploy(**({"burst": "when-full", "name": "web", "count": 2} | request))


def _cloud(site: Site) -> CloudDriver:
    from tasks.environment import environment

    with read_session(site.url) as session:
        uri = session.scalars(select(Cloud.uri)).one()
    return registry.cloud(uri, environment().access)


def _instances(site: Site) -> list[tuple[str, str, str]]:
    """Machine, type and zone of what runs in the cloud for this site."""
    with read_session(site.url) as session:
        site_id = session.scalars(select(SiteRow.id)).one()
        names: dict[str, str] = dict(session.execute(select(Vm.id, Vm.name)).all())
    seen = _cloud(site).read_instances(site_id)
    return sorted((names.get(i.vm_id, "?"), i.instance_type, i.zone) for i in seen)


def _attempts(site: Site) -> list[tuple[str, str, str | None]]:
    with read_session(site.url) as session:
        rows = session.scalars(select(LaunchAttempt).order_by(LaunchAttempt.created_at))
        return [(r.token, r.instance_type, r.outcome) for r in rows]


def _vm(site: Site, name: str) -> Vm:
    with read_session(site.url) as session:
        vm = session.scalars(select(Vm).where(Vm.name == name)).one()
        session.expunge(vm)
        return vm


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.prefect
def test_a_full_rack_bursts_and_comes_back(rack: Site, ec2: Control) -> None:
    before = rack.snapshot()
    ec2.boot_delay(0.5)
    _burst(count=3)
    assert rack.machines() == dict.fromkeys(("web-1", "web-2", "web-3"), VmState.RUNNING)
    assert rack.load()["h1"] == (1, 1, 128)
    assert _instances(rack) == [("web-2", "t3.nano", "eu-west-1a"), ("web-3", "t3.nano", "eu-west-1a")]
    assert rack.use().vms == 3, "machines in a cloud count in the quota"
    assert rack.use().disk_mib == 3 * 64
    rack.assert_agrees()
    vm = _vm(rack, "web-2")
    assert vm.cloud_address
    assert vm.instance_id
    assert vm.hourly_price == Decimal("0.0057")
    with read_session(rack.url) as session:
        events = session.execute(
            select(UsageEvent.provider, UsageEvent.host, UsageEvent.hourly_price)
            .where(UsageEvent.vm_id == vm.id)
            .distinct()
        ).all()
    assert [tuple(e) for e in events] == [("ec2", "aws/eu-west-1a", Decimal("0.0057"))]
    assert run.reconcile() == []
    run.terminate("web-1", "web-2", "web-3")
    assert _instances(rack) == []
    assert rack.events("web-2") == ["created", "started", "terminated"]
    assert rack.snapshot() == before
    assert run.reconcile() == []


def test_the_list_shows_where_it_is_and_its_address(rack: Site) -> None:
    from interfaces.cli.machines import machines

    _burst()
    vm = _vm(rack, "web-2")
    shown = next(row for row in machines() if row["name"] == "web-2")
    assert shown["host"] == "aws/eu-west-1a"
    assert [a["address"] for a in shown["addresses"]] == [vm.cloud_address]
    assert shown["instance"]["id"] == vm.instance_id
    assert shown["instance"]["type"] == "t3.nano"


@pytest.mark.parametrize("again", ["reconcile", "reconcile killed too"])
def test_killed_right_after_the_launch(rack: Site, ec2: Control, start: Processes, again: str) -> None:
    ec2.hold("RunInstances")
    child = start.start(run.deploy_request, {"burst": "when-full", "name": "web", "count": 2})
    _wait(lambda: ec2.state()["held"] == 1)
    ((token, _, outcome),) = _attempts(rack)
    calls = ec2.calls("RunInstances")
    assert calls[-1]["ClientToken"] == token, "the token was committed before the call"
    assert outcome is None
    assert _vm(rack, "web-2").instance_id is None, "nobody knows the answer"
    child.kill()
    if again != "reconcile":
        second = start.start(run.reconcile)
        # It finds the instance by its tag: no further launch that could be held.
        assert second.answer().error == ""
    ec2.release()
    findings = run.reconcile()
    if again == "reconcile":
        assert (
            Finding("interrupted operation", "vm/web-2", "aws/eu-west-1a", "deployment taken forward")
            in findings
        )
    assert _instances(rack) == [("web-2", "t3.nano", "eu-west-1a")]
    assert [a[0] for a in _attempts(rack)] == [token]
    assert rack.machines()["web-2"] is VmState.RUNNING
    assert rack.events("web-2") == ["created", "started"]
    rack.assert_agrees()


def test_an_answer_that_is_lost_starts_no_second_instance(rack: Site, ec2: Control) -> None:
    before = len(ec2.calls("RunInstances"))
    ec2.fail("RunInstances", lose=True)
    _burst()
    assert len(_instances(rack)) == 1
    assert [a[2] for a in _attempts(rack)] == ["launched"]
    assert len(ec2.calls("RunInstances")) == before + 1


def test_a_slower_pace_is_kept_with_the_same_token(rack: Site, ec2: Control) -> None:
    before = len(ec2.calls("RunInstances"))
    ec2.fail("RunInstances", "RequestLimitExceeded", status=503)
    _burst()
    calls = ec2.calls("RunInstances")[before:]
    assert len(calls) == 2
    assert len({c["ClientToken"] for c in calls}) == 1
    assert len(_instances(rack)) == 1


def test_without_capacity_the_next_type_is_tried_with_a_token_of_its_own(rack: Site, ec2: Control) -> None:
    before = len(ec2.calls("RunInstances"))
    for zone in ("eu-west-1a", "eu-west-1b"):
        match = {"InstanceType": "t3.nano", "Placement.AvailabilityZone": zone}
        ec2.fail("RunInstances", "InsufficientInstanceCapacity", status=500, match=match)
    _burst()
    tried = [(c["InstanceType"], c["Placement.AvailabilityZone"]) for c in ec2.calls("RunInstances")[before:]]
    assert tried == [("t3.nano", "eu-west-1a"), ("t3.nano", "eu-west-1b"), ("t3.micro", "eu-west-1a")]
    attempts = _attempts(rack)
    assert len({token for token, _, _ in attempts}) == 3
    assert "InsufficientInstanceCapacity" in str(attempts[0][2])
    assert _instances(rack) == [("web-2", "t3.micro", "eu-west-1a")]
    with read_session(rack.url) as session:
        prices = session.scalars(select(UsageEvent.hourly_price).where(UsageEvent.provider == "ec2")).all()
    assert set(prices) == {Decimal("0.0114")}, "what runs is billed, not what was hoped for"


def test_no_capacity_anywhere_is_a_failure_and_leaves_nothing(rack: Site, ec2: Control) -> None:
    ec2.fail("RunInstances", "InsufficientInstanceCapacity", status=500, times=100)
    with pytest.raises(OperationFailed, match=r"aws has no capacity: t3\.nano in eu-west-1a: "):
        _burst()
    assert rack.machines() == {"web-1": VmState.RUNNING, "web-2": VmState.FAILED}
    assert rack.use().vms == 1
    assert len(_attempts(rack)) == 8
    assert _instances(rack) == []


def test_an_endpoint_that_is_down_is_refused_at_the_check(engine: Engine, tmp_path: Path) -> None:
    with _full_rack(tmp_path) as site:
        _with_cloud(site, uri_of(f"http://127.0.0.1:{free_port()}"))
        before = site.rows()
        with pytest.raises(Unready, match="Our hosts are full, and no cloud can be used: aws: "):
            _burst()
        assert site.rows() == before
        assert site.sim.snapshot_state()["domains"] == {}
        _burst(count=1)  # what our hosts can take needs no cloud
        assert site.machines() == {"web": VmState.RUNNING}


def test_a_cloud_that_goes_away_during_the_act(simulated: Site) -> None:
    """It is failed; as nothing can be said of the cloud, the machine keeps its place until it answers."""
    simulated.sim.fail_next("find_instances", times=20, error="HostUnreachable")
    with pytest.raises(OperationFailed, match="Taking it back failed too"):
        _burst()
    assert simulated.machines()["web-2"] is VmState.TERMINATING
    simulated.sim.clear()
    simulated.sim.host_down("aws")
    assert [f.what for f in run.reconcile()] == ["cloud unreachable"]
    assert simulated.machines()["web-2"] is VmState.TERMINATING
    simulated.sim.host_up("aws")
    assert [f.action for f in run.reconcile()] == ["removed"]
    assert simulated.use().vms == 1
    assert simulated.open_operations() == []


def test_what_fails_after_the_launch_is_taken_back(simulated: Site) -> None:
    simulated.sim.fail_next("ensure_launched", after=True)
    with pytest.raises(OperationFailed, match=r"Step 'launch' of web-2 on host aws/eu-west-1a failed"):
        _burst()
    assert simulated.machines()["web-2"] is VmState.FAILED
    assert [state for _, state, _, _ in simulated.sim.instances()] == ["gone"]
    assert simulated.use().vms == 1
    simulated.assert_agrees()


@pytest.mark.parametrize(
    ("request_", "limits", "said"),
    [
        ({"burst": "never"}, {}, "only 1 of 2 machines fit"),
        ({}, {"burst_allowed": False}, "tenant default does not allow it"),
        ({}, {"burst_max_vms": 0}, "has 0 of 0 machines in clouds, 1 more would be needed"),
        ({}, {"burst_max_price": Decimal("0.001")}, "for at most 0.001 an hour"),
        ({"memory_mib": 999_999, "count": 1}, {}, "no instance type with a known price"),
        ({"start": "paused"}, {}, "started running, not paused"),
    ],
)
def test_why_not(simulated: Site, request_: dict[str, Any], limits: dict[str, Any], said: str) -> None:
    with write_session(simulated.url) as session:
        session.execute(update(Tenant).values(**limits) if limits else select(Tenant.id))
    before = simulated.rows()
    with pytest.raises(NoCapacity) as refused:
        _burst(**request_)
    assert said in str(refused.value)
    assert "h1" in str(refused.value), "and why our hosts cannot"
    assert simulated.rows() == before


def test_machines_in_clouds_count_in_the_quota(simulated: Site) -> None:
    with write_session(simulated.url) as session:
        session.execute(update(Tenant).values(max_vms=2))
    _burst()
    with pytest.raises(QuotaExceeded, match="2 of 2 machines used, 1 more asked"):
        _burst(name="more", count=1)


def _plan(site: Site, **request: Any) -> DeployPlan:
    with write_session(site.url, commit=False) as session:
        asked = DeployRequest(template="tiny", burst="when-full", **request)
        claim = claim_deploy(session, asked, actor=ACTOR, prices=load().prices, clouds={"aws": ""})
    assert claim.plan is not None
    return claim.plan


def test_the_plan_says_where_at_what_price_and_why(simulated: Site) -> None:
    before = simulated.rows()
    plan = _plan(simulated, count=3)
    assert plan.burst == (
        "aws: 2 x t3.nano in eu-west-1a, 0.0057 EUR an hour each (list of 2026-11-01), as our hosts cannot "
        "take them",
    )
    here = _plan(simulated, count=1)
    assert here.burst == ()
    assert plan.cost.after is not None
    assert here.cost.after is not None
    assert plan.cost.after == here.cost.after + 2 * Decimal("0.0057") * Decimal("1.20")
    assert simulated.rows() == before
    assert simulated.sim.instances() == []


def test_an_instance_that_is_gone_is_reported_and_no_longer_charged(rack: Site) -> None:
    _burst()
    instance_id = _vm(rack, "web-2").instance_id
    assert instance_id
    _cloud(rack).ensure_terminated(instance_id)
    (finding,) = run.reconcile()
    assert (finding.what, finding.object) == ("was running, is missing", "vm/web-2")
    assert f"instance {instance_id} is gone" in finding.action
    assert rack.machines()["web-2"] is VmState.MISSING
    assert rack.events("web-2") == ["created", "started", "stopped"]
    assert run.reconcile() == []
    run.terminate("web-2")
    assert rack.machines()["web-2"] is VmState.GONE
    assert rack.use().vms == 1


def test_of_a_cloud_that_does_not_answer_nothing_is_concluded(simulated: Site) -> None:
    _burst()
    simulated.sim.host_down("aws")
    assert [f.what for f in run.reconcile()] == ["cloud unreachable"]
    assert simulated.machines()["web-2"] is VmState.RUNNING


def test_instances_of_ended_machines_are_terminated_and_unknown_ones_left(rack: Site) -> None:
    _burst()
    vm, cloud = _vm(rack, "web-2"), _cloud(rack)
    run.terminate("web-2")
    site_id = rack.spec("web-1").site

    def launch(vm_id: str) -> str:
        spec = LaunchSpec(f"t-{vm_id}", AMI, "t3.nano", "eu-west-1a", vm_id, "x", "default", site_id)
        return cloud.ensure_launched(spec).instance_id

    launch(vm.id)
    unknown = launch("11111111-2222-4333-8444-555555555555")
    foreign = cloud.ensure_launched(
        LaunchSpec("t-foreign", AMI, "t3.nano", "eu-west-1a", vm.id, "x", "other", "another-site")
    )
    findings = {(f.what, f.object, f.action.split(":")[0]) for f in run.reconcile()}
    assert findings == {
        ("instance of an ended machine", "vm/web-2", "terminated"),
        ("instance that the inventory does not know", unknown, "left alone"),
    }
    assert [i.instance_id for i in cloud.read_instances(site_id)] == [unknown]
    with read_session(rack.url) as session:
        kinds = session.scalars(select(Operation.kind).where(Operation.object_id == vm.id)).all()
    assert "clean" in kinds, "under an operation"
    cloud.ensure_terminated(unknown)
    cloud.ensure_terminated(foreign.instance_id)


def test_a_tenant_file_allows_burst(simulated: Site) -> None:
    text = """
tenant: acme
burst: {allowed: true, max_vms: 2, max_price_per_hour: "0.05"}
user: {name: alice}
network: {cidr: 10.20.0.0/24}
template: {name: web, image: tiny, memory_mib: 96}
"""
    wanted = onboarding.parse(text, "acme.yaml")
    for changes in (4, 0):
        with write_session(simulated.url) as session:
            done = onboarding.onboard(
                session, wanted, uplink=simulated.sim.network_uri(), vlans="1000-1999", actor=ACTOR
            )
            assert len(done.changes) == changes
    with read_session(simulated.url) as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "acme")).one()
        assert (tenant.burst_allowed, tenant.burst_max_vms) == (True, 2)
        assert tenant.burst_max_price == Decimal("0.05")
