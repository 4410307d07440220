"""A batch: one operation over several machines, each with an operation of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, select, update
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.model import VmSpec
from vdc.operations import Claim, Opening
from vdc.schema import Operation, Vm, new_id
from vdc.states import Desired


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of a batch: the right to act on it, and what it is.

    `failure` is why its deployment is being taken back; empty on the way forward.
    """

    claim: Claim
    spec: VmSpec
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """The right to act on some machines."""

    claim: Claim
    machines: tuple[Machine, ...]


def open_batch(
    session: Session,
    kind: str,
    label: str,
    request: dict[str, Any],
    machines: Sequence[VmSpec],
    *,
    actor: str,
    flow_run_id: str | None,
) -> Batch:
    """Open the parent operation and one for each machine.

    Raises Conflict where a machine has an open operation already.
    """
    batch_id = new_id()
    opening = Opening(kind, "batch", batch_id, label, request, batch_id)
    parent = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    children = operations.open_many(
        session,
        [Opening(kind, "vm", spec.vm_id, spec.name, {}) for spec in machines],
        actor=actor,
        flow_run_id=flow_run_id,
        parent_id=batch_id,
    )
    return Batch(parent, tuple(Machine(c, s) for c, s in zip(children, machines, strict=True)))


def adopt_batch(session: Session, kind: str, flow_run_id: str | None) -> Batch | None:
    """The open batch of this flow run: a run that is repeated goes on with what it had claimed."""
    parent = operations.open_of_run(session, kind, flow_run_id)
    if parent is None:
        return None
    children = session.scalars(
        select(Operation).where(Operation.parent_id == parent.id).order_by(Operation.object)
    ).all()
    return Batch(
        operations.take_over(session, parent),
        tuple(adopt_machine(session, child) for child in children if child.finished_at is None),
    )


def adopt_machine(session: Session, operation: Operation) -> Machine:
    """Take over the open operation of a machine; what was being taken back already goes on so."""
    machine = Machine(
        operations.take_over(session, operation),
        specs.load(session.get_one(Vm, operation.object_id).spec),
        (operation.kind == "deploy" and failure_of(session, operation)) or "",
    )
    mark_failing(session, [machine])
    return machine


def failure_of(session: Session, operation: Operation) -> str:
    """Why an open deployment of a machine must be taken back: its own failure, or one of all or none."""
    if operation.error:
        return operation.error
    parent = session.get(Operation, operation.parent_id)
    if parent is None or not parent.spec.get("atomic"):
        return ""
    error = session.scalars(
        select(Operation.error).where(Operation.parent_id == parent.id, Operation.error.is_not(None)).limit(1)
    ).first()
    return f"Taken back, as all or none was asked: {error}" if error else ""


def mark_failing(session: Session, machines: Sequence[Machine]) -> list[Machine]:
    """Write down why machines are being taken back, before anything of them is removed.

    From then on there is only that way: another process must not make a machine whose files may just be
    going. Passes over those without a failure and what another process took over; returns the marked.
    """
    marked = []
    for machine in machines:
        if not machine.failure:
            continue
        ours = update(Operation).where(
            Operation.id == machine.claim.operation_id,
            Operation.epoch == machine.claim.epoch,
            Operation.finished_at.is_(None),
        )
        changed: CursorResult[Any] = session.execute(  # type: ignore[assignment]
            ours.values(error=machine.failure)
        )
        if changed.rowcount:
            marked.append(machine)
            session.execute(update(Vm).where(Vm.id == machine.spec.vm_id).values(desired=Desired.ABSENT))
    return marked
