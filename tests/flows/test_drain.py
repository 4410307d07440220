"""A host is emptied: what can go goes, what cannot is named, and nothing is lost, whoever is killed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.processes import Processes
from tests.flows.site import Site, once, settings
from vdc import catalog
from vdc.claims.hosts import set_enabled
from vdc.errors import Conflict, NoCapacity, NotFound, OperationFailed
from vdc.inventory import read_session, write_session
from vdc.schema import Host, Operation
from vdc.states import VmState

NAMES = ("web-1", "web-2", "web-3")


def enable(site: Site, host: str, wanted: bool = True) -> None:
    with write_session(site.url) as session:
        set_enabled(session, host, wanted, actor="test")


def on_h1(site: Site, **request: Any) -> None:
    enable(site, "h2", False)
    run.deploy(**request)
    enable(site, "h2")


@pytest.fixture
@once
def webs(site: Site) -> Site:
    """A site with three machines on h1, none on h2."""
    on_h1(site, count=3, name="web")
    return site


def hosts(site: Site) -> dict[str, str]:
    """Where each machine is, as the inventory says."""
    return {name: site.spec(name).host.name for name in site.machines()}


def host_state(site: Site, host: str) -> str:
    with read_session(site.url) as session:
        return str(session.query(Host.state).filter(Host.name == host).scalar())


def children(site: Site, error: OperationFailed | str) -> dict[str, str | None]:
    """Error of each machine's operation of a drain."""
    drain_id = error if isinstance(error, str) else error.operation_id
    with read_session(site.url) as session:
        rows = session.query(Operation.object, Operation.error).filter(Operation.parent_id == drain_id)
        return {row.object: row.error for row in rows}


def drain(host: str) -> str:
    """For processes: a function that can be pickled."""
    return run.drain(host)


@pytest.mark.prefect
def test_an_emptied_host_has_nothing_and_takes_nothing_until_it_is_enabled(webs: Site) -> None:
    run.power("stop", "web-2", hard=True)
    leases, events = webs.leases(), {name: webs.events(name) for name in NAMES}
    drain_id = run.drain("h1")
    assert children(webs, drain_id) == dict.fromkeys(("vm/web-1", "vm/web-2", "vm/web-3"))
    webs.assert_agrees()
    assert hosts(webs) == dict.fromkeys(NAMES, "h2")
    assert webs.machines()["web-2"] == VmState.STOPPED
    assert webs.sim.snapshot_state()["domains"].get("h1", {}) == {}
    assert webs.leases() == leases
    assert {name: webs.events(name) for name in NAMES} == events
    assert run.reconcile() == []
    run.deploy(count=1, name="new")
    assert webs.spec("new").host.name == "h2"

    enable(webs, "h1")
    run.deploy(count=1, name="back")
    assert webs.spec("back").host.name == "h1"


def test_a_host_without_machines_is_disabled_and_done(site: Site) -> None:
    run.drain("h1")
    assert host_state(site, "h1") == "disabled"
    run.drain("h1")
    with pytest.raises(NotFound, match="no host 'h7'"):
        run.drain("h7")
    assert site.open_operations() == []


def test_what_cannot_go_is_named_and_stays_as_it_is(webs: Site) -> None:
    run.power("pause", "web-1")
    run.power("suspend", "web-2")
    on_h1(webs, count=1, name="held", hold=True)
    with pytest.raises(OperationFailed, match="3 of 4 machines failed") as failed:
        run.drain("h1")
    errors = children(webs, failed.value)
    assert errors.pop("vm/web-3") is None
    for name, state in (("web-1", "paused"), ("web-2", "suspended"), ("held", "held")):
        assert f"Machine {name} is {state}: `migrate` is for" in str(errors.pop(f"vm/{name}"))
    assert errors == {}
    webs.assert_agrees()
    assert hosts(webs) == {"web-1": "h1", "web-2": "h1", "held": "h1", "web-3": "h2"}
    assert webs.machines() == {
        "web-1": VmState.PAUSED,
        "web-2": VmState.SUSPENDED,
        "web-3": VmState.RUNNING,
        "held": VmState.HELD,
    }
    run.power("resume", "web-1", "web-2")
    run.release("held")
    run.drain("h1")
    assert set(hosts(webs).values()) == {"h2"}
    webs.assert_agrees()


def test_the_large_ones_first_as_far_as_there_is_room(site: Site) -> None:
    on_h1(site, count=1, name="big", memory_mib=512)
    on_h1(site, count=2, name="small", memory_mib=128)
    with write_session(site.url) as session:
        h2 = session.query(Host).filter(Host.name == "h2").one()
        h2.memory_mib = h2.reserved_memory_mib + 700
    with pytest.raises(
        OperationFailed, match=r"1 of 3 machines failed\. Machine small-2 is not migrated"
    ) as one:
        run.drain("h1")
    assert "memory (60 of 700 MiB free, 128 needed)" in str(one.value)
    assert hosts(site) == {"big": "h2", "small-1": "h2", "small-2": "h1"}
    site.assert_agrees()


def test_groups_are_obeyed(site: Site) -> None:
    with write_session(site.url) as session:
        catalog.create_group(session, "apart", "anti-affinity", actor="test")
    run.deploy(count=2, name="apart", group="apart")
    with pytest.raises(OperationFailed, match="group apart has a machine there already"):
        run.drain("h1")
    assert set(hosts(site).values()) == {"h1", "h2"}
    site.assert_agrees()


def test_a_plan_touches_nothing(webs: Site) -> None:
    from tasks.abilities import abilities
    from vdc.claims.drain import claim_drain
    from vdc.requests import DrainRequest

    run.power("pause", "web-3")
    before, calls = webs.rows(), webs.sim.call_count()
    with write_session(webs.url, commit=False) as session:
        plan = claim_drain(session, DrainRequest(host="h1"), abilities(), actor="test")
    assert [(m.spec.name, m.target.name) for m in plan.moves] == [("web-1", "h2"), ("web-2", "h2")]
    assert [(one.name, one.state) for one in plan.left] == [("web-3", "paused")]
    assert (webs.rows(), webs.sim.call_count()) == (before, calls)


def test_some_at_a_time_and_the_host_is_locked_meanwhile(webs: Site, start: Processes) -> None:
    webs.sim.hold("ensure_migrated")
    child = start.start(drain, "h1")
    webs.sim.wait_until_held()
    assert webs.machines() == dict.fromkeys(NAMES, VmState.MIGRATING), "all have their place already"
    with pytest.raises(Conflict, match="host/h1 is busy: drain"):
        enable(webs, "h1")
    with pytest.raises(Conflict, match="host/h1 is busy: drain"):
        run.drain("h1")
    with pytest.raises(NoCapacity):
        run.deploy(count=1, name="new", vcpu=webs_vcpu(webs))
    webs.sim.release("ensure_migrated")
    assert child.answer().error == ""
    webs.assert_agrees()


def webs_vcpu(site: Site) -> int:
    """What h2 could take if nothing were on its way there."""
    with read_session(site.url) as session:
        host = session.query(Host).filter(Host.name == "h2").one()
        return int(host.vcpu * host.cpu_overcommit)


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_than_the_setting_says_move_at_once(webs: Site, limit: int) -> None:
    import threading

    from tasks import draining

    now, most, lock = 0, 0, threading.Lock()
    real = draining.move_and_record

    def counted(*args: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return real(*args)
        finally:
            with lock:
                now -= 1

    with pytest.MonkeyPatch.context() as patch, settings(drain_concurrency=limit):
        patch.setattr(draining, "move_and_record", counted)
        run.drain("h1")
    assert most == limit
    webs.assert_agrees()


@pytest.mark.prefect
@pytest.mark.parametrize("call", ["network.ensure_network", "ensure_migrated", "ensure_settled"])
def test_one_that_fails_does_not_keep_the_others(webs: Site, call: str) -> None:
    webs.sim.fail_next(call)
    with pytest.raises(OperationFailed, match="1 of 3 machines failed") as failed:
        run.drain("h1")
    assert len([error for error in children(webs, failed.value).values() if error]) == 1
    assert host_state(webs, "h1") == "disabled"
    assert webs.open_operations() == []
    if call == "ensure_settled":
        assert [f.action for f in run.reconcile()] == ["migration finished"]
    else:
        assert sorted(hosts(webs).values()) == ["h1", "h2", "h2"]
    webs.assert_agrees()
    run.drain("h1")
    assert set(hosts(webs).values()) == {"h2"}
    webs.assert_agrees()


@pytest.mark.parametrize("skip", [0, 3, 7, 11, 14, 17])
def test_killed_in_the_middle(webs: Site, start: Processes, skip: int) -> None:
    """Reconcile sees to each machine; a second drain goes on. Each of the three takes seven calls."""
    leases = webs.leases()
    webs.sim.hold("*", skip=skip)
    child = start.start(drain, "h1")
    webs.sim.wait_until_held()
    child.kill()
    webs.sim.clear()
    findings = run.reconcile()
    assert findings
    assert {f.what for f in findings} == {"interrupted operation"}
    webs.assert_agrees()
    assert host_state(webs, "h1") == "disabled"
    assert webs.machines() == dict.fromkeys(NAMES, VmState.RUNNING)
    assert run.reconcile() == []
    run.drain("h1")
    assert hosts(webs) == dict.fromkeys(NAMES, "h2")
    assert webs.leases() == leases
    webs.assert_agrees()


def test_a_flow_run_that_is_repeated_goes_on_with_what_it_had_claimed(webs: Site) -> None:
    from tasks.abilities import abilities
    from vdc.claims.drain import claim_drain
    from vdc.requests import DrainRequest

    request = DrainRequest(host="h1")
    with write_session(webs.url) as session:
        first = claim_drain(session, request, abilities(), actor="test", flow_run_id="run")
    with write_session(webs.url, commit=False) as session:
        second = claim_drain(session, request, abilities(), actor="test", flow_run_id="run")
    assert [m.spec for m in second.moves] == sorted((m.spec for m in first.moves), key=lambda s: s.name)
    assert second.batch.claim.epoch == first.batch.claim.epoch + 1


def _vdc(*arguments: str) -> int:
    return guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)


def test_as_typed(webs: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)
    run.power("stop", "web-1", hard=True)
    run.power("pause", "web-3")
    before = webs.rows()
    assert _vdc("host", "drain", "h1", "--plan") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["web-1", "default", "h2", "cold"] in lines
    assert ["web-2", "default", "h2", "live"] in lines
    assert any(line[:2] == ["web-3", "paused"] for line in lines)
    assert _vdc("host", "drain", "h1", "--plan", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    moved = {"name": "web-1", "tenant": "default", "to": "h2", "how": "cold"}
    assert plan["moves"][0].items() >= moved.items()
    assert [(one["name"], one["state"]) for one in plan["left"]] == [("web-3", "paused")]
    assert _vdc("host", "drain", "h7") == 3
    assert webs.rows() == before

    capsys.readouterr()
    assert _vdc("host", "drain", "h1") == 1
    seen = capsys.readouterr()
    assert seen.err.startswith("web-3 stays: Machine web-3 is paused")
    assert "another `vdc host drain h1` goes on" in seen.err
    table = {line.split()[0]: line.split()[2:4] for line in seen.out.splitlines()}
    assert (table["web-1"], table["web-2"], table["web-3"]) == (
        ["stopped", "h2"],
        ["running", "h2"],
        ["paused", "h1"],
    )
    run.power("resume", "web-3")
    assert _vdc("host", "drain", "h1", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["name"], row["host"], row["error"]) == ("web-3", "h2", None)
    assert _vdc("host", "drain", "h1") == 0
    assert "Host h1 had no machine." in capsys.readouterr().err
    assert _vdc("vm", "migrate", "web-1", "--to", "h1") == 3, "it is disabled"
    assert _vdc("host", "enable", "h1") == 0
    assert _vdc("vm", "migrate", "web-1", "--to", "h1", "--bandwidth-mib-s", "5") == 3, "it is stopped"
    capsys.readouterr()
    assert _vdc("vm", "migrate", "web-1", "--to", "h1") == 0
    assert capsys.readouterr().out == "web-1 went from h2 to h1; it is stopped.\n"
    assert run.reconcile() == []
