"""A batch: one operation over several machines, each with an operation of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.model import VmSpec
from vdc.operations import Claim, Opening
from vdc.schema import Operation, Vm, new_id


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine of a batch: the right to act on it, and what it is."""

    claim: Claim
    spec: VmSpec


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
    if flow_run_id is None:
        return None
    parent = session.scalars(
        select(Operation).where(
            Operation.flow_run_id == flow_run_id,
            Operation.kind == kind,
            Operation.open_key.like("batch:%"),
        )
    ).first()
    if parent is None:
        return None
    children = session.scalars(
        select(Operation).where(Operation.parent_id == parent.id, Operation.finished_at.is_(None))
    ).all()
    return Batch(
        operations.take_over(session, parent),
        tuple(
            Machine(
                operations.take_over(session, child),
                specs.load(session.get_one(Vm, child.object_id).spec),
            )
            for child in children
        ),
    )
