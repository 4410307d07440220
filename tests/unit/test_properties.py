"""Whatever is asked, in whatever order, whoever dies over it: what must always hold of the inventory.

The machine below plays everybody: users, the processes that act for them, and reconcile. Processes die
between any two transactions, and wake up to record what others have taken over.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from sqlalchemy import func, literal_column, select, update

from drivers.simulated import host_facts
from tests.flows.site import ACTOR, Site
from vdc import catalog, inventory
from vdc.claims.batch import Batch, Machine, mark_failing
from vdc.claims.deploy import claim_deploy
from vdc.claims.terminate import claim_terminate
from vdc.errors import Refused, Superseded
from vdc.inventory import read_session, write_session
from vdc.operations import Claim, close, owner
from vdc.pricing import ListPrices
from vdc.reconciliation import MAX_ATTEMPTS, take_over_dead
from vdc.records import Outcome, close_batch, record_failed, record_provisioned, record_terminated
from vdc.requests import DeployRequest, TerminateRequest
from vdc.schema import Operation, Vm, utc_now
from vdc.states import HOLDING, VmState

HOSTS = [host_facts("h1", vcpu=3, memory_mib=4096), host_facts("h2", vcpu=2, memory_mib=4096)]
QUOTA = 4
AS_WRITTEN = literal_column("rowid")
"""Ids are random: in their order Hypothesis could not play the same story twice."""


def _dead() -> str:
    boot, namespace, _, _ = owner().split("/")
    return f"{boot}/{namespace}/4194305/1"


class Datacenter(RuleBasedStateMachine):
    """Bundles hold the right to act on machines: `making` those of deployments, `leaving` of removals."""

    making = Bundle("making")
    leaving = Bundle("leaving")

    @initialize()
    def begin(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vdc-properties-"))
        # Five vCPU, a network of six addresses, and a tenant that may have four machines.
        self.site = Site.create(self.directory, hosts=HOSTS, cidr="10.5.0.0/29", reserved_memory_mib=0)
        with write_session(self.site.url) as session:
            catalog.create_tenant(session, "small", max_vms=QUOTA, actor=ACTOR)

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            inventory.engine(self.site.url).dispose()
            self.site.sim.delete()
            shutil.rmtree(self.directory)

    @rule(
        target=making,
        count=st.integers(1, 3),
        tenant=st.sampled_from(["default", "small"]),
        name=st.sampled_from(["", "web"]),
        atomic=st.booleans(),
    )
    def deploy(self, count: int, tenant: str, name: str, atomic: bool) -> object:
        rows = self.site.rows()
        request = DeployRequest(template="tiny", count=count, tenant=tenant, name=name, atomic=atomic)
        try:
            with write_session(self.site.url) as session:
                claim = claim_deploy(session, request, actor=ACTOR, prices=ListPrices())
        except Refused:
            assert self.site.rows() == rows, "a refusal touches nothing"
            return multiple()
        return multiple(*claim.batch.machines)

    @rule(target=leaving, which=st.integers(0, 9))
    def terminate(self, which: int) -> object:
        with read_session(self.site.url) as session:
            ids = session.scalars(select(Vm.id).order_by(AS_WRITTEN)).all()
        if not ids:
            return multiple()
        rows = self.site.rows()
        try:
            with write_session(self.site.url) as session:
                request = TerminateRequest(vms=[ids[which % len(ids)]])
                batch: Batch = claim_terminate(session, request, actor=ACTOR)
        except Refused:
            assert self.site.rows() == rows
            return multiple()
        return multiple(*batch.machines)

    @rule(machine=making)
    def made(self, machine: Machine) -> None:
        """Also by a process that was taken over meanwhile: it comes too late, and changes nothing."""
        if machine.failure:
            return self.taken_back(machine)
        self._record(record_provisioned, Outcome(machine.claim, machine.spec, utc_now()))
        return None

    @rule(machine=making, clean=st.booleans())
    def failed(self, machine: Machine, clean: bool) -> None:
        failing = replace(machine, failure=machine.failure or "no disk")
        with write_session(self.site.url) as session:
            marked = mark_failing(session, [failing])
        if marked:
            self.taken_back(failing, clean)

    def taken_back(self, machine: Machine, clean: bool = True) -> None:
        self._record(
            record_failed, Outcome(machine.claim, machine.spec, utc_now(), machine.failure, clean=clean)
        )

    @rule(machine=leaving, error=st.sampled_from(["", "host h1 is down"]))
    def removed(self, machine: Machine, error: str) -> None:
        self._record(record_terminated, Outcome(machine.claim, machine.spec, utc_now(), error))

    def _record(self, record: object, outcome: Outcome) -> None:
        with write_session(self.site.url) as session:
            held = session.get_one(Operation, outcome.claim.operation_id)
            ours = held.finished_at is None and held.epoch == outcome.claim.epoch
        rows = self.site.rows()
        with write_session(self.site.url) as session:
            recorded = record(session, [outcome])  # type: ignore[operator]
        assert len(recorded) == ours
        assert ours or self.site.rows() == rows, "who was taken over changes nothing"

    @rule(target=making, everybody=st.booleans())
    def die_and_take_over(self, everybody: bool) -> object:
        """Processes die; reconcile takes over and will act in their stead (see `making`)."""
        with write_session(self.site.url) as session:
            query = select(Operation.id).where(Operation.finished_at.is_(None)).order_by(AS_WRITTEN)
            ids = session.scalars(query).all()
            if not everybody:
                ids = ids[: len(ids) // 2]
            session.execute(update(Operation).where(Operation.id.in_(ids)).values(owner=_dead()))
        with write_session(self.site.url) as session:
            dead = take_over_dead(session, 3600)
        assert {c.operation_id for c in dead.claims} == set(ids)
        with read_session(self.site.url) as session:
            for machine in dead.forward:
                row = session.get_one(Operation, machine.claim.operation_id)
                assert row.attempts <= MAX_ATTEMPTS, "after three deaths it is taken back"
        for machine in dead.leaving:
            self._record(record_terminated, Outcome(machine.claim, machine.spec, utc_now()))
        self._close(dead.batches)
        return multiple(*dead.forward, *dead.back)

    def _close(self, batches: object) -> None:
        for claim in batches:  # type: ignore[attr-defined]
            with write_session(self.site.url) as session:
                try:
                    close_batch(session, claim)
                except Superseded:
                    session.rollback()

    @rule()
    def close_what_is_over(self) -> None:
        """A batch ends with its last machine, whoever ends it."""
        with write_session(self.site.url) as session:
            for batch in session.scalars(
                select(Operation).where(Operation.open_key.like("batch:%"), Operation.finished_at.is_(None))
            ).all():
                children = session.scalars(
                    select(Operation.finished_at).where(Operation.parent_id == batch.id)
                ).all()
                if all(children):
                    close(session, Claim(batch.id, batch.epoch))

    @invariant()
    def sound(self) -> None:
        """No address twice, no host over its capacity, no tenant over its quota, no wrong bill."""
        if not hasattr(self, "site"):
            return
        self.site.assert_sound()
        with read_session(self.site.url) as session:
            vms = session.scalars(select(Vm)).all()
            holding = [vm for vm in vms if vm.state in HOLDING]
            assert self.site.use("small").vms + self.site.use("default").vms == len(holding)
            assert len({vm.live_name for vm in holding}) == len(holding), "a name twice"
            assert all((vm.live_name is None) == (vm.state not in HOLDING) for vm in vms)
            open_ones = session.scalars(
                select(Operation.object_id).where(Operation.open_key.is_not(None))
            ).all()
            assert len(set(open_ones)) == len(open_ones), "two operations on one object"
            busy = set(open_ones)
            for vm in vms:
                # Nothing is stuck: who is on the way has somebody who works on it, or reconcile will.
                assert vm.state != VmState.DEPLOYING or vm.id in busy, f"{vm.name} is forgotten"
            finished = select(func.count()).where(
                Operation.finished_at.is_not(None) != Operation.outcome.is_not(None)
            )
            assert session.scalar(finished) == 0


TestDatacenter = Datacenter.TestCase
TestDatacenter.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
