"""A process that was stopped, whose operation another one took over, acts no more when it wakes.

What is guaranteed: the fence is asked before every driver call, so that a process makes at most the calls in
which it was stopped (one a thread, the fence asked before); it records nothing, and ends with an error. The
calls themselves are idempotent, and what a late one leaves of a machine that ended is found by reconcile.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from tests.flows import run
from tests.flows.conftest import LEASE_S
from tests.flows.processes import Child, Processes
from tests.flows.site import Site
from vdc.claims.deploy import claim_deploy
from vdc.errors import Superseded
from vdc.inventory import read_session, write_session
from vdc.operations import Fence, owner, provably_dead
from vdc.pricing import ListPrices
from vdc.requests import DeployRequest
from vdc.schema import Operation, utc_now
from vdc.states import VmState


def _stop(site: Site, child: Child) -> None:
    """Stop a process, but not inside a transaction: SQLite would let nobody else write until it wakes."""
    for _ in range(20):
        child.stop()
        if _writable(site, 0.2):
            return
        child.resume()
        assert _writable(site, 30)
    raise AssertionError("it writes all the time")


def _writable(site: Site, timeout_s: float) -> bool:
    file = site.url.removeprefix("sqlite:///")
    try:
        with closing(sqlite3.connect(file, timeout=timeout_s, isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("ROLLBACK")
        return True
    except sqlite3.OperationalError:
        return False


def _wait_for_lease(site: Site) -> None:
    deadline = time.monotonic() + 30
    while True:
        with read_session(site.url) as session:
            open_ones = session.query(Operation).filter(Operation.finished_at.is_(None)).all()
            if all((utc_now() - o.heartbeat_at).total_seconds() > LEASE_S for o in open_ones):
                return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.alone  # half a second without a call tells that all stand still
@pytest.mark.parametrize(
    ("call", "skip"),
    [("ensure_network", 0), ("ensure_disk", 1), ("ensure_started", 0)],
)
def test_a_stopped_process_acts_no_more(site: Site, start: Processes, call: str, skip: int) -> None:
    """Stopped in a call: that one is under way and may happen (it is idempotent), and then no other."""
    site.sim.hold(call, skip=skip)
    child = start.start(run.deploy_request, {"count": 2, "name": "web"})
    site.sim.wait_until_held()
    # All that can move has moved: every thread stands at the gate or has ended.
    _until_still(site)
    stopped_in = len(site.sim.held())
    _stop(site, child)
    site.sim.release(call)
    _wait_for_lease(site)

    findings = run.reconcile()
    assert {f.action for f in findings} == {"deployment taken forward"}
    after = site.rows()
    before_waking = site.sim.call_count()

    child.resume()
    answer = child.answer()
    late = [c for c in site.sim.log(since=before_waking) if c.pid == child.pid]
    assert [c.call for c in late] == [f"{late[0].call.split('.')[0]}.{call}"] * stopped_in
    assert answer.error in ("Superseded", "OperationFailed")
    assert "taken over by another process" in answer.message
    assert site.rows() == after, "it wrote nothing"
    assert site.machines() == {"web-1": VmState.RUNNING, "web-2": VmState.RUNNING}
    site.assert_agrees()


def _until_still(site: Site) -> None:
    """Wait until no driver call was made for a while: the threads that are not held have nothing to do."""
    deadline = time.monotonic() + 30
    seen, since = site.sim.call_count(), time.monotonic()
    while time.monotonic() - since < 0.5:
        assert time.monotonic() < deadline
        time.sleep(0.02)
        if (now := site.sim.call_count()) != seen:
            seen, since = now, time.monotonic()


def test_a_late_call_of_a_removed_machine_is_cleaned_up(site: Site, start: Processes) -> None:
    """The worst moment: stopped before it makes a disk, and the machine was taken back meanwhile."""
    before = site.snapshot()
    site.sim.hold("ensure_disk")
    child = start.start(run.deploy_request, {"name": "web", "atomic": True})
    site.sim.wait_until_held()
    _stop(site, child)
    _wait_for_lease(site)
    site.sim.release("ensure_disk")
    run.reconcile()
    assert site.machines() == {"web": VmState.FAILED}
    assert site.snapshot() == before
    child.resume()
    assert child.answer().error != ""
    assert site.snapshot() != before, "the call that was under way made its disk"
    assert [f.what for f in run.reconcile()] == ["left by an ended machine"]
    assert site.snapshot() == before


@pytest.mark.prefect
def test_a_stopped_termination_removes_nothing_that_was_made_since(site: Site, start: Processes) -> None:
    run.deploy(count=1, name="web")
    site.sim.hold("network.ensure_ports_removed")
    child = start.start(run.terminate, "web")
    site.sim.wait_until_held()
    _stop(site, child)
    _wait_for_lease(site)
    site.sim.release("network.ensure_ports_removed")
    run.reconcile()
    assert site.machines() == {"web": VmState.GONE}
    run.deploy(name="web")
    child.resume()
    assert child.answer().error != ""
    site.assert_agrees()


@pytest.mark.prefect
def test_a_stopped_process_that_nobody_replaced_goes_on(site: Site, start: Processes) -> None:
    site.sim.hold("ensure_disk")
    child = start.start(run.deploy_request, {"name": "web"})
    site.sim.wait_until_held()
    _stop(site, child)
    _wait_for_lease(site)
    site.sim.release("ensure_disk")
    child.resume()
    assert child.answer().error == ""
    assert site.machines() == {"web": VmState.RUNNING}
    site.assert_agrees()


def test_a_live_process_is_left_alone_and_a_dead_one_replaced_at_once(site: Site, start: Processes) -> None:
    site.sim.hold("ensure_disk")
    # With a lease of an hour only its death can tell.
    child = start.start(run.deploy_request, {"name": "web"}, operation_lease_s=3600)
    site.sim.wait_until_held()
    assert run.reconcile() == []
    assert site.machines() == {"web": VmState.DEPLOYING}
    child.kill()
    site.sim.release("ensure_disk")
    assert [f.action for f in run.reconcile()] == ["deployment taken forward"]
    site.assert_agrees()


def _claim(site: Site, flow_run_id: str | None, name: str = "web") -> object:
    with write_session(site.url) as session:
        request = DeployRequest(template="tiny", count=2, name=name)
        return claim_deploy(
            session, request, actor="tester", prices=ListPrices(), flow_run_id=flow_run_id
        ).batch


@pytest.mark.prefect
def test_a_retry_of_the_same_flow_run_adopts_its_operation(site: Site) -> None:
    run_id = "0d4f8a3e-0000-4000-8000-000000000001"
    first, again = _claim(site, run_id), _claim(site, run_id)
    assert again.claim.operation_id == first.claim.operation_id
    assert {m.spec for m in again.machines} == {m.spec for m in first.machines}
    assert site.use().vms == 2
    fence = Fence(site.url, 60, [first.claim, *(m.claim for m in first.machines)])
    fence.check(first.claim)
    fence._renewed_at = 0.0  # as after a pause
    for claim in (first.claim, *(m.claim for m in first.machines)):
        with pytest.raises(Superseded):
            fence.check(claim)
    # Another run is another deployment.
    with pytest.raises(Exception, match="is taken"):
        _claim(site, "0d4f8a3e-0000-4000-8000-000000000002")
    _claim(site, None, name="other")
    assert site.use().vms == 4


def test_a_fence_counts_from_the_claim(site: Site) -> None:
    """A process stopped between its claim and its first act finds out, too."""
    batch = _claim(site, "0d4f8a3e-0000-4000-8000-000000000003")
    _claim(site, "0d4f8a3e-0000-4000-8000-000000000003")  # somebody else goes on with it
    fence = Fence(site.url, 0.0, [batch.claim])
    with pytest.raises(Superseded):
        fence.check(batch.claim)


def test_after_its_flow_a_fence_lets_nothing_through(site: Site) -> None:
    batch = _claim(site, None)
    with Fence(site.url, 60, [batch.claim]).kept(on_error=lambda error: None) as fence:
        fence.check(batch.claim)
    with pytest.raises(Superseded):
        fence.check(batch.claim)


def test_who_is_provably_dead(start: Processes) -> None:
    child = start.start(owner)
    its = child.answer().value
    child.process.join(30)
    boot, namespace, pid, begun = its.split("/")
    assert provably_dead(its)
    assert not provably_dead(owner())
    mine = owner().split("/")
    assert provably_dead("/".join([*mine[:3], "1"])), "another process had that pid before"
    assert not provably_dead(f"{boot}/{namespace}x/{pid}/{begun}"), "in a container we cannot see"
    assert not provably_dead(f"another-boot/{namespace}/{pid}/{begun}"), "on another machine, perhaps"
