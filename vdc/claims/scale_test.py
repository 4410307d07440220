"""The claim of a scale test, and what belongs to it.

It holds no machine itself: each turn claims its own by the claim of any deployment, which names the test
(`DeployRequest.scale_test`). That is how they are found again when the test must end before its time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.batch import Machine, mark_failing
from vdc.claims.deploy import DeployPlan, claim_deploy
from vdc.errors import Invalid
from vdc.model import HostRef, VmSpec
from vdc.operations import Claim, Opening
from vdc.pricing import ListPrices
from vdc.reconciliation import Dead
from vdc.requests import DeployRequest, ScaleTestRequest
from vdc.schema import Operation, Site, Vm, new_id
from vdc.states import HOLDING

MAX_REPETITIONS = 100
ENDED = "The scale test ended before this machine was done with."


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn to make and remove machines. Repetition 0 warms connections up and counts nothing."""

    side: str
    """`ours` or `floor`."""
    repetition: int
    request: DeployRequest


@dataclass(frozen=True, slots=True)
class ScaleTest:
    """A scale test that may begin. `machines` are what a turn would make, `plan` what that would take."""

    claim: Claim
    name: str
    request: ScaleTestRequest
    machines: tuple[VmSpec, ...]
    plan: DeployPlan
    no_floor: str
    """Why there is no floor; empty where there is one."""

    @property
    def hosts(self) -> list[HostRef]:
        by_name = {spec.host.name: spec.host for spec in self.machines}
        return [by_name[name] for name in sorted(by_name)]

    def turns(self) -> Iterator[Turn]:
        """A machine on each host to warm up; then ours, floor, ours, floor, ..."""
        yield Turn("ours", 0, self._deployment("warm", len(self.hosts)))
        for repetition in range(1, self.request.repetitions + 1):
            yield Turn("ours", repetition, self._deployment(f"r{repetition}", self.request.count))
            if not self.no_floor:
                yield Turn("floor", repetition, self._deployment(f"f{repetition}", self.request.count))

    def _deployment(self, turn: str, count: int) -> DeployRequest:
        return DeployRequest(
            template=self.request.template,
            count=count,
            tenant=self.request.tenant,
            name=f"{self.name}-{turn}",
            start=self.request.start,
            scale_test=self.claim.operation_id,
        )


def claim_scale_test(
    session: Session,
    request: ScaleTestRequest,
    *,
    actor: str,
    prices: ListPrices,
    flow_run_id: str | None = None,
) -> ScaleTest:
    """Open the site's one scale test. Raises Refused where a turn of it could not be deployed.

    Two at a time would measure each other. A repeated run goes on with the test that it had opened.
    """
    if not 1 <= request.repetitions <= MAX_REPETITIONS:
        raise Invalid(f"{request.repetitions} repetitions are refused: ask for 1 to {MAX_REPETITIONS}.")
    if adopted := operations.open_of_run(session, "scale-test", flow_run_id):
        claim = operations.take_over(session, adopted)
    else:
        site, operation_id = session.scalars(select(Site.id)).one(), new_id()
        opening = Opening(
            "scale-test",
            "scale-test",
            site,
            _name(operation_id),
            request.model_dump(mode="json"),
            operation_id,
        )
        claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    tried = DeployRequest(
        template=request.template, count=request.count, tenant=request.tenant, start=request.start
    )
    with session.begin_nested() as trial:
        planned = claim_deploy(session, tried, actor=actor, prices=prices)
        trial.rollback()
    assert planned.plan is not None, "no flow run, so that nothing was adopted"
    machines = tuple(machine.spec for machine in planned.batch.machines)
    return ScaleTest(
        claim, _name(claim.operation_id), request, machines, planned.plan, _no_floor(request, machines)
    )


def _name(operation_id: str) -> str:
    return f"scale-{operation_id[:8]}"


def _no_floor(request: ScaleTestRequest, machines: Sequence[VmSpec]) -> str:
    if not request.floor:
        return "it was not asked for"
    for spec in machines:
        for uri, known in ((spec.host.uri, "qemu+ssh"), (spec.disks[0].datastore_uri, "qcow2")):
            if (scheme := urlsplit(uri).scheme) == "simulated":
                return f"host {spec.host.name} is simulated: there is nothing beneath it to measure"
            if scheme != known:
                return f"the bare loop makes {known} machines only, not {scheme}"
    return ""


def out_directory(request: ScaleTestRequest, name: str, home: Path) -> Path:
    return Path(request.out) if request.out else home / "scale-tests" / name


def machines_of(session: Session, batch_id: str) -> list[tuple[str, str, str]]:
    """(id, name, error) of each machine of a deployment."""
    rows = session.execute(
        select(Operation.object_id, Operation.object, Operation.error)
        .where(Operation.parent_id == batch_id)
        .order_by(Operation.object)
    )
    return [(row.object_id, row.object.partition("/")[2], row.error or "") for row in rows]


def _batches(session: Session, test_id: str) -> list[str]:
    made_for: Any = Operation.spec["scale_test"].as_string()
    return list(session.scalars(select(Operation.id).where(Operation.kind == "deploy", made_for == test_id)))


def _vm_ids(session: Session, test_id: str) -> list[str]:
    return list(
        session.scalars(
            select(Operation.object_id).where(Operation.parent_id.in_(_batches(session, test_id)))
        )
    )


def machines_left(session: Session, test_id: str) -> list[str]:
    """Ids of a test's machines that hold a place yet, and on which no operation is open."""
    busy = select(Operation.object_id).where(Operation.open_key.like("vm:%"))
    ids = _vm_ids(session, test_id)
    return list(
        session.scalars(select(Vm.id).where(Vm.id.in_(ids), Vm.state.in_(HOLDING), Vm.id.not_in(busy)))
    )


def take_over_machines(session: Session, test_id: str) -> Dead:
    """What a test that ends before its time left open in this process, to be taken back or finished.

    Threads of it that may still act are superseded. What another process does to its machines is left to it.
    """
    mine = operations.owner()
    rows = session.scalars(
        select(Operation).where(
            Operation.object_id.in_(_vm_ids(session, test_id)),
            Operation.finished_at.is_(None),
            Operation.owner == mine,
        )
    ).all()
    back: list[Machine] = []
    leaving: list[Machine] = []
    for row in rows:
        claim = operations.take_over(session, row)
        failure = (row.error or ENDED) if row.kind == "deploy" else ""
        machine = Machine(claim, specs.load(session.get_one(Vm, row.object_id).spec), failure)
        mark_failing(session, [machine])
        (back if failure else leaving).append(machine)
    parents = {*_batches(session, test_id), *(row.parent_id for row in rows)}
    batches = session.scalars(
        select(Operation).where(
            Operation.id.in_(parents), Operation.finished_at.is_(None), Operation.owner == mine
        )
    ).all()
    taken = tuple(operations.take_over(session, batch) for batch in batches)
    return Dead((), tuple(back), tuple(leaving), (), (), (), taken)
