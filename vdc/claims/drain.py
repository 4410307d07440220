"""The claim of a drain: a host that takes no new machines, and those it has on their way to others."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.claims.batch import Batch, Machine
from vdc.claims.migrate import Move, adopt_move, claim_move
from vdc.errors import Refused
from vdc.model import Abilities
from vdc.names import find
from vdc.operations import Opening
from vdc.requests import DrainRequest
from vdc.schema import Host, Operation, Vm
from vdc.states import HOLDING


@dataclass(frozen=True, slots=True)
class Left:
    """A machine that cannot be moved, and why; it stays as it is."""

    name: str
    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The right to move machines away from a host."""

    batch: Batch
    moves: tuple[Move, ...]
    left: tuple[Left, ...] = ()


def claim_drain(
    session: Session,
    request: DrainRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Drain:
    """Disable the host and reserve a place elsewhere for each of its machines, the large ones first.

    A machine that cannot be moved does not keep the others: why is told, and in the journal. Raises Refused
    where the host itself is busy or unknown.
    """
    if begun := operations.open_of_run(session, "drain", flow_run_id):
        return _adopt(session, begun)
    host = find(session, Host, "host", request.host)
    opening = Opening("drain", "host", host.id, host.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    host.state = "disabled"
    moves: list[Move] = []
    left: list[Left] = []
    for vm in _machines(session, host):
        state = vm.state
        try:
            # A savepoint: what the claim of a refused one has written goes with it.
            with session.begin_nested():
                moves.append(
                    claim_move(
                        session,
                        vm,
                        "",
                        abilities,
                        {},
                        actor=actor,
                        flow_run_id=flow_run_id,
                        parent_id=claim.operation_id,
                        with_storage=request.with_storage,
                    )
                )
        except Refused as error:
            left.append(Left(vm.name, state, str(error)))
            operations.write_refused(
                session,
                Opening("migrate", "vm", vm.id, vm.name, {}),
                str(error),
                actor=actor,
                flow_run_id=flow_run_id,
                parent_id=claim.operation_id,
            )
    return Drain(_batch(claim, moves), tuple(moves), tuple(left))


def _machines(session: Session, host: Host) -> list[Vm]:
    """All that are there, or on their way there."""
    query = (
        select(Vm)
        .where(or_(Vm.host_id == host.id, Vm.target_host_id == host.id), Vm.state.in_(HOLDING))
        .order_by(Vm.memory_mib.desc(), Vm.name)
    )
    return list(session.scalars(query))


def _adopt(session: Session, begun: Operation) -> Drain:
    """Go on with what this flow run had claimed."""
    claim = operations.take_over(session, begun)
    query = select(Operation).where(Operation.parent_id == begun.id, Operation.finished_at.is_(None))
    moves = [adopt_move(session, child) for child in session.scalars(query.order_by(Operation.object))]
    return Drain(_batch(claim, moves), tuple(moves))


def _batch(claim: operations.Claim, moves: list[Move]) -> Batch:
    return Batch(claim, tuple(Machine(move.claim, move.spec) for move in moves))
