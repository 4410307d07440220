"""Move a machine to another host."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.batches import claimed, fenced
from tasks.migration import move_and_record
from vdc.claims.migrate import claim_migrate
from vdc.errors import OperationFailed
from vdc.requests import MigrateRequest


@flow(name="migrate", flow_run_name="migrate {request.label}", **flow_options())
def migrate(request: MigrateRequest) -> str:
    """Reserve the machine's place, bring it there, see where it is, write that down.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the machine
    stayed where it was, or where it could not be seen which of the two hosts it is on.
    """
    move = claimed(claim_migrate, request, abilities())
    with fenced(move.claim) as fence:
        telling.migrate_plan(move)
        result, failure = move_and_record(move, fence)
        telling.migrate_result(move, result, failure)
    if result is None:
        raise OperationFailed(
            f"{move.spec.name} stayed on host {move.spec.host.name}: {failure}", move.claim.operation_id
        )
    return move.claim.operation_id
