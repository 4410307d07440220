"""Live migration on simulated hosts: what is refused, and that a machine is whole and on one host only,
whatever fails and whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes
from tests.flows.site import Site, once, settings
from vdc import catalog
from vdc.errors import Conflict, Invalid, InvalidState, NoCapacity, NotFound, OperationFailed, Unsupported
from vdc.inventory import read_session, write_session
from vdc.model import Abilities
from vdc.requests import MigrateRequest
from vdc.schema import Host, Operation, Vm
from vdc.states import VmState

CALLS = (
    ("h2", "network.ensure_network"),
    ("h2", "network.ensure_ports"),
    ("h2", "datastore.read_files"),
    ("h1", "hypervisor.ensure_migrated"),
    ("h1", "hypervisor.ensure_settled"),
    ("h1", "network.ensure_ports_removed"),
)
"""Of a migration from h1 to h2, in order; the machine has two cards on one switch."""


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a machine `web` on h1."""
    site.with_machine("web")
    assert site.spec("web").host.name == "h1"
    return site


def migrate(vm: str, to: str = "") -> str:
    """For processes: a function that can be pickled."""
    return run.migrate(vm, to)


def on(site: Site, name: str = "web") -> str:
    """The one host that has the machine's domain."""
    domain = site.spec(name).domain
    hosts = [host for host, names in site.sim.snapshot_state()["domains"].items() if domain in names]
    assert len(hosts) == 1, hosts
    return hosts[0]


def whole(site: Site, host: str, leases: list[str], state: VmState = VmState.RUNNING) -> None:
    """The machine is on that host and nowhere else, with its addresses, and takes its place once."""
    site.assert_agrees()
    assert on(site) == host
    assert site.machines() == {"web": state}
    assert site.spec("web").host.name == host
    assert site.leases() == leases
    assert site.load() == {"h1": (0, 0, 0), "h2": (0, 0, 0)} | {host: (1, 1, 128)}
    with read_session(site.url) as session:
        assert session.query(Vm).filter(Vm.target_host_id.is_not(None)).count() == 0


def operation(site: Site, operation_id: str = "") -> Operation:
    """That one, or the last that was about the machine."""
    with read_session(site.url) as session:
        query = session.query(Operation).filter(Operation.object == "vm/web")
        if operation_id:
            query = query.filter(Operation.id == operation_id)
        found = query.order_by(Operation.started_at.desc()).first()
        assert found is not None
        session.expunge(found)
        return found


@pytest.mark.prefect
def test_it_goes_to_another_host_and_the_figures_are_kept(web: Site) -> None:
    leases, events = web.leases(), web.events("web")
    before = web.sim.call_count()
    done = operation(web, run.migrate("web"))
    assert [(c.host, c.call) for c in web.sim.log(since=before)] == [CALLS[0], *CALLS]
    assert (done.kind, done.outcome, done.error) == ("migrate", "done", None)
    assert done.result is not None
    assert (done.result["from"], done.result["to"]) == ("h1", "h2")
    assert done.result["downtime_s"] >= 0
    whole(web, "h2", leases)
    assert web.events("web") == events, "it is billed as before"
    assert run.reconcile() == []

    run.migrate("web", "h1")
    whole(web, "h1", leases)
    run.terminate("web")
    web.assert_agrees()
    assert web.leases() == []


def test_while_it_migrates_it_holds_its_place_on_both_hosts(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_migrated")
    child = start.start(migrate, "web")
    web.sim.wait_until_held()
    assert web.load() == {"h1": (1, 1, 128), "h2": (1, 1, 128)}
    assert web.use().vms == 1
    assert web.machines() == {"web": VmState.MIGRATING}
    with pytest.raises(Conflict, match="busy: migrate"):
        run.migrate("web")
    with pytest.raises(InvalidState, match="is migrating: wait for it"):
        run.terminate("web")
    web.sim.release("ensure_migrated")
    assert child.answer().error == ""
    whole(web, "h2", web.leases())


def test_a_batch_cannot_take_the_place_that_is_reserved(site: Site, start: Processes) -> None:
    run.deploy(count=1, name="web", vcpu=20)
    site.sim.hold("ensure_migrated")
    child = start.start(migrate, "web", "h2")
    site.sim.wait_until_held()
    with pytest.raises(NoCapacity, match="vCPU"):
        run.deploy(count=1, name="big", vcpu=20)
    site.sim.release("ensure_migrated")
    assert child.answer().error == ""
    run.deploy(count=1, name="big", vcpu=20)
    site.assert_agrees()


# -- what is refused -------------------------------------------------------------------------------------


def _change(site: Site, **values: Any) -> None:
    with write_session(site.url) as session:
        session.query(Host).filter(Host.name == "h2").update(values)


REFUSALS: dict[str, tuple[Callable[[Site], object], str, type[Exception], str]] = {
    "same host": (lambda site: None, "h1", Invalid, "is on host h1 already"),
    "no such host": (lambda site: None, "h7", NotFound, "no host 'h7'"),
    "disabled": (lambda site: _change(site, state="disabled"), "h2", NoCapacity, "h2 refused: not enabled"),
    "nowhere": (
        lambda site: _change(site, state="disabled"),
        "",
        NoCapacity,
        "h1 refused: the machine is th",
    ),
    "no network": (lambda site: _change(site, networks=[]), "h2", NoCapacity, "network .* not there"),
    "no vCPU": (lambda site: _change(site, vcpu=0), "h2", NoCapacity, r"vCPU \(0 of 0 free, 1 needed\)"),
    "no memory": (lambda site: _change(site, memory_mib=1100), "h2", NoCapacity, "memory"),
    "other processor": (lambda site: _change(site, arch="aarch64"), "h2", NoCapacity, "another kind of proc"),
    "emulated": (lambda site: _change(site, domain_type="qemu"), "h2", NoCapacity, "another kind of proc"),
    "paused": (
        lambda site: run.power("pause", "web"),
        "h2",
        InvalidState,
        "is paused: `migrate` is for a machine that is running or stopped",
    ),
    "suspended": (lambda site: run.power("suspend", "web"), "h2", InvalidState, "is suspended: `migrate` is"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_what_cannot_be_is_refused_and_nothing_is_touched(web: Site, why: str) -> None:
    prepare, to, error, message = REFUSALS[why]
    prepare(web)
    before, calls = web.rows(), web.sim.call_count()
    with pytest.raises(error, match=message):
        run.migrate("web", to)
    assert web.rows() == before
    assert web.sim.call_count() == calls


def test_groups_are_obeyed(site: Site) -> None:
    with write_session(site.url) as session:
        catalog.create_group(session, "apart", "anti-affinity", actor="test")
        catalog.create_group(session, "together", "affinity", actor="test")
    run.deploy(count=2, name="apart", group="apart")
    run.deploy(count=2, name="both", group="together")
    with pytest.raises(NoCapacity, match="group apart has a machine there already"):
        run.migrate("apart-1")
    with pytest.raises(NoCapacity, match="group together lives elsewhere"):
        run.migrate("both-1")
    run.terminate("both-2")
    run.migrate("both-1")
    site.assert_agrees()


def test_what_drivers_cannot_do_is_refused(web: Site) -> None:
    from tasks.abilities import abilities
    from vdc.claims.migrate import claim_migrate

    with settings(database_url=web.url):
        can = abilities()
    request = MigrateRequest(vm="web")
    cases = (
        (Abilities(shared=can.shared), "cannot migrate a running machine"),
        (Abilities(migrating=can.migrating), "datastore shared, which each host has for itself"),
        (Abilities(can.migrating - {web.sim.host("h2").uri}, shared=can.shared), "h2 refused: its driver"),
    )
    for abilities_, message in cases:
        with (
            write_session(web.url, commit=False) as session,
            pytest.raises((Unsupported, NoCapacity), match=message),
        ):
            claim_migrate(session, request, abilities_, actor="test")


# -- failures --------------------------------------------------------------------------------------------

WITHOUT_MIDDLE = {"network.ensure_network", "datastore.read_files", "hypervisor.ensure_settled"}


@pytest.mark.parametrize(("host", "call", "form"), spread(CALLS))
def test_a_failed_call_leaves_it_whole_on_one_host(web: Site, host: str, call: str, form: str) -> None:
    leases = web.leases()
    web.sim.fail_next(call, host=host, **FORMS[form])
    failed = ""
    try:
        run.migrate("web", "h2")
    except OperationFailed as error:
        failed = str(error)
    assert web.open_operations() == []
    passing = form in PASSING
    if call == "hypervisor.ensure_settled":
        # It was not seen where it is: it keeps both places until it is.
        if not passing and form != "stops-halfway":
            assert "could not be seen" in failed
            assert web.machines() == {"web": VmState.MIGRATING}
            assert web.load() == {"h1": (1, 1, 128), "h2": (1, 1, 128)}
            with pytest.raises(InvalidState, match="vdc reconcile"):
                run.terminate("web")
            assert [f.action for f in run.reconcile()] == ["migration finished"]
        whole(web, "h2", leases)
    elif call == "hypervisor.ensure_migrated" and form == "happens-but-the-answer-is-lost":
        assert failed == "", "the truth is where the domain runs"
        whole(web, "h2", leases)
    elif (
        passing
        or call == "network.ensure_ports_removed"
        or (form == "stops-halfway" and call in WITHOUT_MIDDLE)
    ):
        assert failed == ""
        if web.sim.snapshot_state()["ports"].get("h1"):
            assert call == "network.ensure_ports_removed"
            assert [f.what for f in run.reconcile()] == ["port left by a migration"]
        whole(web, "h2", leases)
    else:
        assert failed.startswith("web stayed on host h1: Step '"), failed
        assert operation(web).outcome == "failed"
        whole(web, "h1", leases)
        run.migrate("web", "h2")
        whole(web, "h2", leases)
    assert run.reconcile() == []


def test_a_host_that_is_lost_in_the_middle(web: Site, start: Processes) -> None:
    """Nothing is concluded while one of the two does not answer."""
    leases = web.leases()
    web.sim.hold("ensure_settled")
    child = start.start(migrate, "web", "h2")
    web.sim.wait_until_held()
    web.sim.host_down("h2")
    web.sim.release("ensure_settled")
    answer = child.answer()
    assert answer.error == "OperationFailed"
    assert "vdc reconcile" in answer.message
    for _ in range(2):
        assert [f.what for f in run.reconcile()] == ["host unreachable"]
        assert web.machines() == {"web": VmState.MIGRATING}
        assert web.load()["h2"] == (1, 1, 128)
    web.sim.host_up("h2")
    assert [(f.what, f.action) for f in run.reconcile()] == [("unfinished migration", "migration finished")]
    whole(web, "h2", leases)


def test_a_machine_that_runs_twice_is_left_to_a_person(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_settled")
    child = start.start(migrate, "web", "h2")
    web.sim.wait_until_held()
    web.sim.copy_domain(web.spec("web").domain, "h2", "h1")
    web.sim.release("ensure_settled")
    assert "runs there and on h2" in child.answer().message
    assert "not settled yet" in run.reconcile()[0].action
    assert {h: len(names) for h, names in web.sim.snapshot_state()["domains"].items()} == {"h1": 1, "h2": 1}


# -- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, len(CALLS) + 2))
@pytest.mark.parametrize("halfway", [False, True], ids=["before", "copy-left-behind"])
def test_killed_before_each_call(web: Site, start: Processes, n: int, halfway: bool) -> None:
    """With `halfway` the migration itself breaks off: the destination is left with a copy that never ran."""
    leases = web.leases()
    if halfway:
        web.sim.fail_next("ensure_migrated", halfway=True)
    web.sim.hold("*", skip=n - 1)
    child = start.start(migrate, "web", "h2")
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    moved = n > 5 and not halfway
    action = "migration finished" if moved else "migration did not happen; it is where it was"
    assert [(f.what, f.action) for f in run.reconcile()] == [("interrupted operation", action)]
    whole(web, "h2" if moved else "h1", leases)
    assert operation(web).outcome == ("done" if moved else "failed")
    assert run.reconcile() == []


def test_killed_before_the_claim_and_before_the_record(web: Site, start: Processes) -> None:
    from tests.flows.processes import die_at_commit

    leases = web.leases()
    for n, committed in ((1, False), (2, True)):
        child = start.start(die_at_commit, n, migrate, "web", "h2", operation_lease_s=60)
        child.process.join(60)
        assert child.process.exitcode is not None
        assert child.process.exitcode < 0
        assert bool(web.open_operations()) is committed
        run.reconcile()
        whole(web, "h2" if committed else "h1", leases)


# -- how hard it may press -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"bandwidth_mib_s": 0}, "A bandwidth of 0 MiB/s is refused: 1 to 1000000"),
        ({"max_downtime_ms": -1}, "A standstill of -1 ms is refused: 1 to 2000000"),
        ({"max_downtime_ms": 2_000_001}, "is refused"),
    ],
)
def test_absurd_limits_are_refused(web: Site, tuning: dict[str, int], message: str) -> None:
    before = web.rows()
    with pytest.raises(Invalid, match=message):
        run.migrate("web", **tuning)
    assert web.rows() == before


@pytest.mark.prefect
def test_what_is_asked_for_reaches_the_driver_also_when_the_flow_run_is_repeated(web: Site) -> None:
    from tasks.abilities import abilities
    from vdc.claims.migrate import claim_migrate
    from vdc.model import MigrationTuning

    request = MigrateRequest(vm="web", bandwidth_mib_s=10, max_downtime_ms=50, auto_converge=True)
    with write_session(web.url, commit=False) as session:
        for _ in range(2):
            move = claim_migrate(session, request, abilities(), actor="test", flow_run_id="run")
            assert move.tuning == MigrationTuning(10, 50, auto_converge=True)
            session.flush()
    done = operation(web, run.migrate("web", bandwidth_mib_s=10, auto_converge=True))
    assert done.spec["bandwidth_mib_s"] == 10
    whole(web, "h2", web.leases())


def test_limits_are_of_machines_that_run(web: Site) -> None:
    run.power("stop", "web", hard=True)
    with pytest.raises(
        Invalid, match="Machine web is stopped: bandwidth, standstill and auto-converge are for"
    ):
        run.migrate("web", auto_converge=True)
