"""Move all machines away from a host."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.batches import claimed, conclude, fenced
from tasks.draining import move_all
from vdc.claims.drain import claim_drain
from vdc.requests import DrainRequest


@flow(name="drain", flow_run_name="drain {request.host}", **flow_options())
def drain(request: DrainRequest) -> str:
    """Disable the host, reserve a place elsewhere for each of its machines, move them, some at a time.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine is
    still there: it is what it was, and the host stays disabled.
    """
    claim = claimed(claim_drain, request, abilities())
    with fenced(claim.batch.claim, *(move.claim for move in claim.moves)) as fence:
        telling.drain_plan(request, claim)
        move_all(claim.moves, fence)
    return conclude(claim.batch)
