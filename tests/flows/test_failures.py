"""A failure at every driver call of a deployment and of a termination, in every form that it can take.

Every case has a host of its own, so that one deployment of many machines meets them all at once: that
machines fail independently is thereby seen too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from drivers.simulated import Simulation
from tests.flows import run
from tests.flows.engine import running_on
from tests.flows.processes import Processes
from tests.flows.site import Site, settings
from vdc.errors import OperationFailed
from vdc.inventory import read_session
from vdc.reconciliation import Finding
from vdc.schema import Operation
from vdc.settings import Settings
from vdc.states import VmState

RETRIES = 2
"""Of tests: see `prefect_client`."""

FORMS: dict[str, Callable[[Simulation, str, str], None]] = {
    "fails": lambda sim, call, host: sim.fail_next(call, host=host),
    "happens-but-the-answer-is-lost": lambda sim, call, host: sim.fail_next(call, after=True, host=host),
    "stops-halfway": lambda sim, call, host: sim.fail_next(call, halfway=True, host=host),
    "busy-then-fine": lambda sim, call, host: sim.fail_next(call, RETRIES, "Busy", host=host),
    "happens-but-times-out": lambda sim, call, host: sim.fail_next(
        call, 1, "TimedOut", after=True, host=host
    ),
    "busy-for-too-long": lambda sim, call, host: sim.fail_next(call, RETRIES + 1, "Busy", host=host),
}

DEPLOY_STEPS = {
    "network.ensure_network": "ensure network",
    "network.ensure_ports": "ensure network",
    "datastore.ensure_disk": "ensure disk",
    "datastore.ensure_seed": "ensure seed",
    "hypervisor.ensure_defined": "define",
    "hypervisor.ensure_started": "start",
}
TERMINATE_STEPS = {
    "hypervisor.ensure_removed": "remove domain",
    "network.ensure_ports_removed": "remove ports",
    "datastore.ensure_removed": "remove files",
}
WITHOUT_MIDDLE = ("network.ensure_network", "hypervisor.ensure_defined", "network.ensure_ports_removed")


@dataclass(frozen=True)
class Case:
    call: str
    form: str

    @property
    def fatal(self) -> bool:
        if self.form == "stops-halfway":
            return self.call not in WITHOUT_MIDDLE
        return self.form not in ("busy-then-fine", "happens-but-times-out")

    @property
    def host(self) -> str:
        return f"{self.call.replace('.', '-').replace('_', '-')}-{self.form}"

    def inject(self, sim: Simulation) -> None:
        FORMS[self.form](sim, self.call, self.host)


DEPLOY = [Case(call, form) for call in DEPLOY_STEPS for form in FORMS]
TERMINATE = [Case(call, form) for call in TERMINATE_STEPS for form in FORMS]


def case_id(case: Case) -> str:
    return f"{case.call}-{case.form}"


@dataclass(frozen=True)
class Seen:
    """A site after the flow: what it raised, and each host's machine."""

    site: Site
    baseline: dict[str, Any]
    error: OperationFailed
    machine: dict[str, str]

    def parts(self, host: str) -> list[str]:
        """Domains, files and ports on any host that belong to this host's machine."""
        spec = self.site.spec(self.machine[host])
        state = self.site.sim.snapshot_state()
        names = [spec.domain, spec.seed_file, *(d.file for d in spec.disks), *(n.device for n in spec.nics)]
        there = [*state["files"]["shared"], *(p for ports in state["ports"].values() for p in ports)]
        there += [name for domains in state["domains"].values() for name in domains]
        return [t for t in there if any(t.startswith(name) for name in names)]

    def operation_error(self, host: str) -> str:
        return self.site.errors()[f"vm/{self.machine[host]}"] or ""


def _machine_of_each_host(site: Site, count: int) -> dict[str, str]:
    names = [f"web-{n}" for n in range(1, count + 1)]
    machines = {site.spec(name).host.name: name for name in names}
    assert len(machines) == count, "spread puts one machine on each host"
    return machines


def _site(directory: Path, cases: list[Case]) -> Site:
    return Site.create(directory, hosts=["healthy", *(case.host for case in cases)])


@pytest.fixture(scope="module")
def deployed(prefect_client: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """One machine on each host, each of which fails in its own way.

    Simulated: that Prefect tries again what is busy, and tells of what fails, is seen of `terminated`.
    """
    site = _site(tmp_path_factory.mktemp("deploy"), DEPLOY)
    baseline = site.snapshot()
    for case in DEPLOY:
        case.inject(site.sim)
    count = len(DEPLOY) + 1
    with settings(database_url=site.url), running_on("simulated"):
        with pytest.raises(OperationFailed) as failed:
            run.deploy(count=count, name="web")
        yield Seen(site, baseline, failed.value, _machine_of_each_host(site, count))


@pytest.mark.parametrize("case", DEPLOY, ids=case_id)
def test_a_deployment_that_fails_leaves_nothing(deployed: Seen, case: Case) -> None:
    state = deployed.site.machines()[deployed.machine[case.host]]
    if not case.fatal:
        assert state is VmState.RUNNING
        assert deployed.operation_error(case.host) == ""
        return
    assert state is VmState.FAILED
    assert deployed.parts(case.host) == []
    assert deployed.site.load()[case.host] == (0, 0, 0)
    error = deployed.operation_error(case.host)
    assert f"'{DEPLOY_STEPS[case.call]}'" in error
    assert case.host in error


def test_after_failed_deployments_hosts_and_inventory_agree(deployed: Seen) -> None:
    """So there is no domain, disk, seed, port or lease of a failed machine, and no open operation."""
    site, fatal = deployed.site, sum(case.fatal for case in DEPLOY)
    healthy = len(DEPLOY) + 1 - fatal
    assert site.sim.pending_faults() == 0, "a fault that never came proves nothing"
    site.assert_agrees()
    assert site.machines()[deployed.machine["healthy"]] is VmState.RUNNING
    assert site.use().vms == healthy
    assert len(site.leases()) == 2 * healthy
    assert f"{fatal} of {len(DEPLOY) + 1} machines failed" in str(deployed.error)

    alive = [name for name, state in site.machines().items() if state is VmState.RUNNING]
    with running_on("simulated"):
        run.terminate(*alive)
    assert site.snapshot() == deployed.baseline


@pytest.fixture(scope="module")
def terminated(prefect_client: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """As `deployed`, by Prefect: also for what tries again there and tells of what fails."""
    site = _site(tmp_path_factory.mktemp("terminate"), TERMINATE)
    baseline = site.snapshot()
    count = len(TERMINATE) + 1
    with settings(database_url=site.url):
        run.deploy(count=count, name="web")
        machines = _machine_of_each_host(site, count)
        for case in TERMINATE:
            case.inject(site.sim)
        with pytest.raises(OperationFailed) as failed:
            run.terminate(*machines.values())
        yield Seen(site, baseline, failed.value, machines)


@pytest.mark.parametrize("case", TERMINATE, ids=case_id)
def test_a_termination_that_fails_keeps_its_place(terminated: Seen, case: Case) -> None:
    state = terminated.site.machines()[terminated.machine[case.host]]
    if not case.fatal:
        assert state is VmState.GONE
        assert terminated.parts(case.host) == []
        return
    # Something of it may still be on the host: its addresses and its room are not given away.
    assert state is VmState.TERMINATING
    assert terminated.site.load()[case.host] == (1, 1, 128)
    error = terminated.operation_error(case.host)
    assert f"'{TERMINATE_STEPS[case.call]}'" in error
    assert case.host in error


def test_reconcile_ends_what_a_termination_left(terminated: Seen) -> None:
    site, fatal = terminated.site, sum(case.fatal for case in TERMINATE)
    assert site.sim.pending_faults() == 0
    assert site.machines()[terminated.machine["healthy"]] is VmState.GONE
    assert terminated.parts("healthy") == []
    assert site.use().vms == fatal
    assert site.open_operations() == []

    findings = run.reconcile()
    assert [f.action for f in findings] == ["removed"] * fatal
    assert site.snapshot() == terminated.baseline
    assert set(site.machines().values()) == {VmState.GONE}
    for name in terminated.machine.values():
        assert site.events(name) == ["created", "started", "terminated"]
    assert run.reconcile() == []


def test_all_or_none_takes_all_back(site: Site) -> None:
    before = site.snapshot()
    site.sim.fail_next("ensure_started", host="h2")
    with pytest.raises(OperationFailed, match="4 of 4 machines failed"):
        run.deploy(count=4, name="web", atomic=True)
    assert site.snapshot() == before
    assert set(site.machines().values()) == {VmState.FAILED}
    errors = [site.errors()[f"vm/web-{n}"] or "" for n in range(1, 5)]
    assert sum(e.startswith("Taken back, as all or none was asked: Step 'start' of") for e in errors) == 3
    assert all("on host h2 failed" in e for e in errors)
    site.assert_agrees()


def test_taking_back_fails_too(prefect_client: Settings, tmp_path: Path) -> None:
    """Both reasons are told; what is left keeps its place until reconcile has removed it."""
    hosts = {call: call.replace(".", "-").replace("_", "-") for call in TERMINATE_STEPS}
    site = Site.create(tmp_path, hosts=list(hosts.values()))
    before = site.snapshot()
    for call, host in hosts.items():
        site.sim.fail_next("hypervisor.ensure_started", after=True, host=host)
        site.sim.fail_next(call, host=host)
    with settings(database_url=site.url):
        with pytest.raises(OperationFailed, match="3 of 3 machines failed"):
            run.deploy(count=3, name="web")
        assert set(site.machines().values()) == {VmState.TERMINATING}
        assert site.use().vms == 3
        for n in range(1, 4):
            error = site.errors()[f"vm/web-{n}"] or ""
            assert "Step 'start' of" in error
            assert "Taking it back failed too: Step 'remove" in error
        run.reconcile()
    assert site.snapshot() == before
    assert site.events("web-1") == [], "what never ran is not billed"


def test_a_host_that_is_lost_on_the_way(site: Site, start: Processes) -> None:
    before = site.snapshot()
    site.sim.hold("ensure_defined", host="h2")
    child = start.start(run.deploy_request, {"count": 2, "name": "web"})
    site.sim.wait_until_held()
    site.sim.host_down("h2")
    site.sim.release("ensure_defined")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "on host h2 failed" in answer.message
    assert sorted(site.machines().values()) == [VmState.RUNNING, VmState.TERMINATING]
    assert len(site.leases()) == 4

    # As long as the host does not answer, nothing is concluded.
    held = site.snapshot()
    assert [f.what for f in run.reconcile()] == ["host unreachable"]
    assert site.snapshot() == held

    site.sim.host_up("h2")
    assert [f.what for f in run.reconcile()] == ["unfinished removal"]
    site.assert_agrees()
    run.terminate(next(name for name, state in site.machines().items() if state is VmState.RUNNING))
    assert site.snapshot() == before


# -- the inventory fails ---------------------------------------------------------------------------------


class BrokenOnce:
    """Stands for a function of vdc whose transaction breaks once, at its end."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        result = self._function(*args, **kwargs)
        if self.calls == 1:
            raise RuntimeError("database or disk is full")
        return result


def _broken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    from importlib import import_module

    owner = import_module(module)
    monkeypatch.setattr(owner, attribute, BrokenOnce(getattr(owner, attribute)))


def _reconcile_until_closed(site: Site) -> list[Finding]:
    """The process that left the operations open lives on (it is ours): the lease has to run out."""
    findings: list[Finding] = []
    deadline = time.monotonic() + 60
    while site.open_operations():
        assert time.monotonic() < deadline, site.open_operations()
        findings += run.reconcile()
    return findings


def test_a_claim_that_cannot_be_written_never_was(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.rows()
    _broken(monkeypatch, "flows.deploy.claim_deploy")
    with pytest.raises(RuntimeError, match="disk is full"):
        run.deploy(count=2)
    assert site.rows() == before
    assert site.sim.snapshot_state()["domains"] == {}


@pytest.mark.parametrize(
    ("where", "fault", "expected"),
    [
        pytest.param(
            "tasks.releasing.record_provisioned",
            False,
            [VmState.RUNNING, VmState.RUNNING],
            marks=pytest.mark.prefect,
        ),
        ("tasks.batches.close_batch", False, [VmState.RUNNING, VmState.RUNNING]),
        # Not written down as failing, it is taken forward: what made it fail has passed.
        ("tasks.fanout.mark_failing", True, [VmState.RUNNING, VmState.RUNNING]),
        ("tasks.releasing.record_failed", True, [VmState.FAILED, VmState.RUNNING]),
    ],
)
def test_an_outcome_that_cannot_be_written_is_found_again(
    site: Site, monkeypatch: pytest.MonkeyPatch, where: str, fault: bool, expected: list[VmState]
) -> None:
    _broken(monkeypatch, where)
    with settings(operation_lease_s=0.3):
        if fault:
            site.sim.fail_next("ensure_started", host="h1")
        with pytest.raises(RuntimeError, match="disk is full"):
            run.deploy(count=2, name="web")
        assert site.open_operations() != []
        _reconcile_until_closed(site)
    assert sorted(site.machines().values()) == expected
    site.assert_agrees()


def test_a_removal_that_cannot_be_written_is_found_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    before = site.snapshot()
    run.deploy(count=2, name="web")
    _broken(monkeypatch, "tasks.leaving.record_terminated")
    with settings(operation_lease_s=0.3):
        with pytest.raises(RuntimeError, match="disk is full"):
            run.terminate("web-1", "web-2")
        _reconcile_until_closed(site)
    assert site.snapshot() == before
    assert site.events("web-1") == ["created", "started", "terminated"]
    with read_session(site.url) as session:
        assert session.query(Operation).filter_by(kind="terminate", outcome="done").count() == 3
