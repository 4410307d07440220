"""Keep a machine's state, take it back there, forget it."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.batches import claimed, fenced, recorded
from tasks.environment import environment
from tasks.snapshots import remove_and_record, revert_and_record, take_snapshot
from vdc.claims.snapshot import claim_delete, claim_revert, claim_snapshot, record_taken
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import DeleteSnapshotRequest, RevertRequest, SnapshotRequest


@flow(name="snapshot", flow_run_name="snapshot {request.vm}", **flow_options())
def snapshot(request: SnapshotRequest) -> str:
    """Keep the machine's state in its disks, and write that down; a snapshot that fails is taken back.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where there is no
    snapshot, or (which the error says) what is left of it could not be removed yet.
    """
    settings = environment().settings
    limits = (settings.max_snapshots, settings.snapshot_days)
    asked = claimed(claim_snapshot, request, abilities(), *limits)
    with fenced(asked.claim) as fence:
        try:
            size_mib = take_snapshot(asked, fence)
        except Superseded:
            raise
        except VdcError as error:
            failure = f"There is no snapshot {asked.label!r} of {asked.spec.name}: {error}"
            try:
                remove_and_record(asked, fence, failure)
            except Superseded:
                raise
            except VdcError as left:
                failure = f"{failure} What is left of it is removed by `vdc reconcile`: {left}"
            raise OperationFailed(failure, asked.claim.operation_id) from error
        recorded(record_taken, asked, size_mib)
    telling.snapshot_result(asked, f"it can be taken back to {asked.label}.")
    return asked.claim.operation_id


@flow(name="revert", flow_run_name="revert {request.vm} to {request.label}", **flow_options())
def revert(request: RevertRequest) -> str:
    """Take the machine back to a snapshot, and write down what it is then.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it may not be
    back: the snapshot is still there.
    """
    asked = claimed(claim_revert, request, abilities())
    with fenced(asked.claim) as fence:
        revert_and_record(asked, fence)
    telling.snapshot_result(asked, f"back at {asked.label}, and {asked.becomes}.")
    return asked.claim.operation_id


@flow(
    name="delete-snapshot", flow_run_name="delete snapshot {request.label} of {request.vm}", **flow_options()
)
def delete_snapshot(request: DeleteSnapshotRequest) -> str:
    """Remove a snapshot from the machine's disks, and its row.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it may still
    be there: reconcile goes on.
    """
    asked = claimed(claim_delete, request)
    with fenced(asked.claim) as fence:
        try:
            remove_and_record(asked, fence)
        except Superseded:
            raise
        except VdcError as error:
            raise OperationFailed(
                f"Snapshot {asked.label!r} of {asked.spec.name} may still be there: {error} "
                "`vdc reconcile` removes it.",
                asked.claim.operation_id,
            ) from error
    telling.snapshot_result(asked, f"snapshot {asked.label} is gone.")
    return asked.claim.operation_id
