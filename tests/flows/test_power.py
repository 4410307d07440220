"""Machines switched on and off on simulated hosts: what is refused, and that state, host and bill agree
whatever fails and whoever is killed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from drivers.simulated import hypervisor
from tests.flows import run
from tests.flows.forms import FORMS, PASSING, spread
from tests.flows.processes import Processes
from tests.flows.site import Site, once, settings
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, OperationFailed
from vdc.inventory import read_session
from vdc.schema import Operation, Vm
from vdc.states import OPERATIONS, Desired, VmState

PORTS = ["network.ensure_network"] * 2 + ["network.ensure_ports"]
CALLS = {
    "start": [*PORTS, "hypervisor.ensure_defined", "hypervisor.ensure_started"],
    "stop": ["hypervisor.ensure_shut_down"],
    "stop --hard": ["hypervisor.ensure_stopped"],
    "reboot": ["hypervisor.read_domain", "hypervisor.reboot"],
    "reset": ["hypervisor.read_domain", "hypervisor.reset"],
    "pause": ["hypervisor.ensure_paused"],
    "resume": [*PORTS, "hypervisor.ensure_started"],
    "suspend": ["hypervisor.ensure_suspended"],
}
"""Driver calls of each verb, in order; the machine has two cards."""

BEFORE = {"start": ["stop"], "resume": ["suspend"]}
"""What is done to a running machine before the verb can be tried."""

AFTER = {
    "start": VmState.RUNNING,
    "stop": VmState.STOPPED,
    "stop --hard": VmState.STOPPED,
    "reboot": VmState.RUNNING,
    "reset": VmState.RUNNING,
    "pause": VmState.PAUSED,
    "resume": VmState.RUNNING,
    "suspend": VmState.SUSPENDED,
}
ONCE = ("reboot", "reset")


@pytest.fixture
@once
def web(site: Site) -> Site:
    """A site with a running machine `web` on h1."""
    return site.with_machine("web")


def power(verb: str, *vms: str, timeout_s: float = 0.2) -> str:
    """As typed, `stop --hard` too; for processes: a function that can be pickled."""
    verb, _, hard = verb.partition(" ")
    return run.power(verb, *vms, timeout_s=timeout_s, hard=bool(hard))


def prepared(site: Site, verb: str) -> VmState:
    for first in BEFORE.get(verb, []):
        power(first, "web")
    return site.machines()["web"]


def how(site: Site, name: str = "web") -> str | None:
    """What the last operation on a machine has to tell."""
    with read_session(site.url) as session:
        query = select(Operation).where(Operation.object == f"vm/{name}")
        last = session.scalars(query.order_by(Operation.started_at.desc())).first()
        assert last is not None
        return (last.result or {}).get("how")


def driver(site: Site, name: str = "web") -> Any:
    from tasks.environment import environment

    return hypervisor(site.spec(name).host, environment().access)


WAYS = {
    "stop": (["stop", "start"], ["created", "started", "stopped", "started"]),
    "pause": (["pause", "resume"], ["created", "started"]),
    "pause-stop": (["pause", "stop --hard", "start"], ["created", "started", "stopped", "started"]),
    "suspend": (["suspend", "resume"], ["created", "started", "suspended", "resumed"]),
    "suspend-paused": (["pause", "suspend", "start"], ["created", "started", "suspended", "resumed"]),
    "suspend-stop": (
        ["suspend", "stop --hard", "start"],
        ["created", "started", "suspended", "stopped", "started"],
    ),
    "reboot": (["reboot"], ["created", "started"]),
    "reset": (["reset"], ["created", "started"]),
}


@pytest.mark.parametrize(
    "way",
    [pytest.param(way, marks=pytest.mark.prefect) if way == "suspend-stop" else way for way in WAYS],
)
def test_there_and_back(web: Site, way: str) -> None:
    verbs, events = WAYS[way]
    place, leases = web.load(), web.leases()
    for verb in verbs:
        power(verb, "web")
        web.assert_agrees()
        assert how(web) is None
        assert run.reconcile() == []
        assert (web.load(), web.leases()) == (place, leases), "it keeps its place"
    assert web.machines() == {"web": VmState.RUNNING}
    assert web.events("web") == events
    run.terminate("web")
    web.assert_agrees()


@pytest.mark.parametrize("verb", CALLS)
def test_what_is_called(web: Site, verb: str) -> None:
    prepared(web, verb)
    calls = web.sim.call_count()
    power(verb, "web")
    assert [c.call for c in web.sim.log(since=calls)] == CALLS[verb]
    assert web.machines()["web"] is AFTER[verb]


@pytest.mark.parametrize(
    ("verb", "told"),
    [
        ("stop", "did not shut down within 0.2 s: powered off"),
        ("reboot", "did not reboot within 0.2 s: reset"),
    ],
)
def test_who_does_not_listen_is_switched_hard(web: Site, verb: str, told: str) -> None:
    domain = web.spec("web").domain
    web.sim.ignore_acpi(domain)
    boots = web.sim.boots(domain)
    power(verb, "web")
    assert web.machines()["web"] is AFTER[verb]
    assert how(web) == told
    assert web.sim.boots(domain) == boots + (verb == "reboot")
    web.assert_agrees()


# -- refusals --------------------------------------------------------------------------------------------


def _reach(site: Site, state: VmState) -> None:
    """Bring `web`, which runs, to a state; as a new machine where one cannot come to it."""
    match state:
        case VmState.PAUSED | VmState.STOPPED | VmState.SUSPENDED:
            power({"paused": "pause", "stopped": "stop", "suspended": "suspend"}[state.value], "web")
        case VmState.GONE:
            run.terminate("web")
        case VmState.HELD:
            run.terminate("web")
            run.deploy(name="web", hold=True)
    with read_session(site.url) as session:
        states = session.scalars(select(Vm.state).order_by(Vm.created_at.desc()))
        assert states.first() == state


@pytest.mark.parametrize("name", ["running", "paused", "stopped", "suspended", "held", "gone"])
def test_what_the_table_does_not_allow_is_refused(web: Site, name: str) -> None:
    state = VmState(name)
    _reach(web, state)
    before, calls = web.rows(), web.sim.call_count()
    refused = [verb for verb in CALLS if state not in OPERATIONS[verb]]
    assert refused
    for verb in refused:
        with pytest.raises(InvalidState, match=rf"^Machine web is {state.value}: "):
            power(verb, "web")
    assert web.rows() == before
    assert web.sim.call_count() == calls


def test_other_refusals(web: Site) -> None:
    before = web.rows()
    with pytest.raises(NotFound, match="no machine 'nobody'"):
        power("stop", "web", "nobody")
    with pytest.raises(Invalid, match="No machine was named"):
        power("stop")
    with pytest.raises(Invalid, match="time-out of 4000 s is refused"):
        power("stop", "web", timeout_s=4000)
    assert web.rows() == before


def test_one_that_loses_something_must_be_meant(web: Site) -> None:
    power("pause", "web")
    with pytest.raises(InvalidState, match=r"guest cannot hear. Resume it first, or stop it with --hard"):
        power("stop", "web")
    power("suspend", "web")
    with pytest.raises(InvalidState, match=r"saved memory would be lost"):
        power("stop", "web")


def test_what_is_busy_is_refused(web: Site, start: Processes) -> None:
    web.sim.hold("ensure_shut_down")
    child = start.start(power, "stop", "web")
    web.sim.wait_until_held()
    with pytest.raises(Conflict, match="vm/web is busy: stop by"):
        power("pause", "web")
    web.sim.release("ensure_shut_down")
    assert child.answer().error == ""
    web.assert_agrees()


@pytest.mark.prefect
def test_machines_fail_independently(site: Site) -> None:
    run.deploy(count=4, name="web")
    site.sim.fail_next("ensure_shut_down", host="h1")
    with pytest.raises(OperationFailed, match=r"1 of 4 machines failed. Step 'shut down' of web-\d on host"):
        power("stop", *site.machines())
    states = list(site.machines().values())
    assert (states.count(VmState.STOPPED), states.count(VmState.RUNNING)) == (3, 1)
    site.assert_agrees()
    assert run.reconcile() == []


# -- failures --------------------------------------------------------------------------------------------

WITHOUT_MIDDLE = [form for form in FORMS if form != "stops-halfway"]


@pytest.mark.parametrize(
    ("verb", "call", "form"),
    spread([(verb, call) for verb, calls in CALLS.items() for call in dict.fromkeys(calls)], WITHOUT_MIDDLE),
)
def test_a_failed_call_is_told_and_reconcile_agrees(web: Site, verb: str, call: str, form: str) -> None:
    old = prepared(web, verb)
    domain = web.spec("web").domain
    boots = web.sim.boots(domain)
    asks = call.endswith((".reboot", ".reset"))
    web.sim.fail_next(call, **FORMS[form])
    passing = form in PASSING and not asks
    with settings(retry_delay_s=0.01):
        if passing:
            power(verb, "web")
        else:
            with pytest.raises(OperationFailed, match=r"1 of 1 machines failed. Step '.*' of web on host h1"):
                power(verb, "web")
    web.sim.clear()
    assert web.open_operations() == []
    assert web.machines()["web"] is (AFTER[verb] if passing else old)
    found = run.reconcile()
    assert all(f.action.startswith("adopted") for f in found)
    web.assert_agrees()
    assert run.reconcile() == []
    happened = passing or (form == "happens-but-the-answer-is-lost" and call == CALLS[verb][-1])
    assert web.machines()["web"] is (AFTER[verb] if happened else old)
    if verb in ONCE:
        assert web.sim.boots(domain) - boots <= 1, "never twice"
    run.terminate("web")
    web.assert_agrees()


def test_a_machine_whose_disk_is_gone_is_not_given_a_blank_one(web: Site) -> None:
    power("stop", "web")
    disk = web.spec("web").disks[0].file
    with web.sim._db.transaction() as db:
        db.execute("DELETE FROM files WHERE name = ?", (disk,))
    with pytest.raises(OperationFailed, match="No such file"):
        power("start", "web")
    assert disk not in web.sim.snapshot_state()["files"]["shared"]
    assert web.machines() == {"web": VmState.STOPPED}


# -- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "n"), [(verb, n) for verb, calls in CALLS.items() for n in range(1, len(calls) + 1)]
)
def test_killed_before_each_call(web: Site, start: Processes, verb: str, n: int) -> None:
    prepared(web, verb)
    domain = web.spec("web").domain
    boots = web.sim.boots(domain)
    web.sim.hold("*", skip=n - 1)
    child = start.start(power, verb, "web")
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    (found,) = run.reconcile()
    assert (found.what, found.object) == ("interrupted operation", "vm/web")
    if verb in ONCE and n > 1:
        # It was about to be asked: whether it was cannot be told, so that it is not asked again.
        assert "whether it did it cannot be told" in found.action
        assert web.sim.boots(domain) == boots
    else:
        assert found.action == f"{verb.split()[0]} finished"
        assert web.sim.boots(domain) - boots == (verb in ONCE or verb == "start")
    assert web.machines()["web"] is AFTER[verb]
    web.assert_agrees()
    assert run.reconcile() == []


def test_killed_between_the_button_and_the_plug(web: Site, start: Processes) -> None:
    web.sim.ignore_acpi(web.spec("web").domain)
    web.sim.hold("ensure_stopped")
    child = start.start(power, "stop", "web")
    web.sim.wait_until_held()
    child.kill()
    web.sim.clear()
    assert [f.action for f in run.reconcile()] == ["stop finished"]
    assert web.machines() == {"web": VmState.STOPPED}
    web.assert_agrees()


def test_one_that_was_paused_meanwhile_pulls_no_plug(web: Site, start: Processes) -> None:
    """It waits for a guest, is stopped itself, and wakes when somebody has started the machine again."""
    domain = web.spec("web").domain
    web.sim.ignore_acpi(domain)
    web.sim.hold("ensure_shut_down", host="h1")
    child = start.start(power, "stop", "web")
    web.sim.wait_until_held()
    child.stop()
    web.sim.release("ensure_shut_down")
    found: list[str] = []
    while not found:  # until its lease is over
        found = [f.action for f in run.reconcile()]
    assert found == ["stop finished"]
    power("start", "web")
    calls = web.sim.call_count()
    child.resume()
    assert child.answer().error
    assert "hypervisor.ensure_stopped" not in [c.call for c in web.sim.log(since=calls)]
    assert web.machines() == {"web": VmState.RUNNING}
    web.assert_agrees()


@pytest.mark.parametrize("verb", ["stop", "reboot"])
def test_killed_before_the_claim_and_before_the_record(web: Site, start: Processes, verb: str) -> None:
    from tests.flows.processes import die_at_commit

    boots = web.sim.boots(web.spec("web").domain)
    last = 2 if verb == "stop" else 3  # a reboot writes down that it is about to ask
    for n in (1, last):
        child = start.start(die_at_commit, n, power, verb, "web", operation_lease_s=60)
        child.process.join(60)
        assert child.process.exitcode == -9
        assert bool(web.open_operations()) is (n > 1)
        run.reconcile()
        web.assert_agrees()
        assert web.machines()["web"] is (AFTER[verb] if n > 1 else VmState.RUNNING)
    assert web.sim.boots(web.spec("web").domain) == boots + (verb == "reboot")


# -- what guests and others do by themselves -------------------------------------------------------------

ADOPTED: dict[str, tuple[list[str], Callable[[Any, str], object], VmState, list[str]]] = {
    "suspended by hand": (
        [],
        lambda d, name: d.ensure_suspended(name, timeout_s=1),
        VmState.SUSPENDED,
        ["created", "started", "suspended"],
    ),
    "resumed by hand": (
        ["suspend"],
        lambda d, name: d.ensure_started(name),
        VmState.RUNNING,
        ["created", "resumed", "started", "suspended"],
    ),
    "its memory thrown away": (
        ["suspend"],
        lambda d, name: d.ensure_stopped(name),
        VmState.STOPPED,
        ["created", "started", "stopped", "suspended"],
    ),
    "paused by hand": ([], lambda d, name: d.ensure_paused(name), VmState.PAUSED, ["created", "started"]),
    "shut down from inside": (
        [],
        lambda d, name: d.ensure_shut_down(name, timeout_s=1),
        VmState.STOPPED,
        ["created", "started", "stopped"],
    ),
}


@pytest.mark.parametrize("what", ADOPTED)
def test_what_others_did_is_adopted(web: Site, what: str) -> None:
    first, act, state, events = ADOPTED[what]
    for verb in first:
        power(verb, "web")
    act(driver(web), web.spec("web").domain)
    assert [f.action for f in run.reconcile()] == [f"adopted as {state}"]
    assert web.machines() == {"web": state}
    assert sorted(web.events("web")) == events
    web.assert_agrees()
    assert run.reconcile() == []


def test_a_suspended_machine_whose_domain_is_lost_comes_back_stopped(web: Site) -> None:
    """Its memory was on its host; its disk is there."""
    power("suspend", "web")
    driver(web).ensure_removed(web.spec("web").domain)
    assert [f.action for f in run.reconcile()] == ["recovered"]
    assert web.machines() == {"web": VmState.STOPPED}
    assert web.events("web")[-1] == "stopped", "the memory is gone, and its charge with it"
    web.assert_agrees()
    power("start", "web")
    web.assert_agrees()


def test_what_should_be_is_what_is(web: Site) -> None:
    """Also after a failure: reconcile must not want what was given up."""
    web.sim.fail_next("ensure_shut_down")
    with pytest.raises(OperationFailed):
        power("stop", "web")
    with read_session(web.url) as session:
        assert session.scalars(select(Vm.desired)).one() == Desired.RUNNING
