"""The claims of what is done with snapshots of a machine, and what is written when it is over.

A row that is not `ready` has no operation of its own any more, or has one open: its snapshot is being made or
removed, and if nobody does so any longer, reconcile removes it. So a row that is ready is on the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims.migrate import datastores_of
from vdc.claims.snapshot_age import age_limit, check_days
from vdc.claims.terminate import find_vm
from vdc.errors import Conflict, InvalidState, NotFound, QuotaExceeded, Unsupported
from vdc.model import Abilities, SnapshotSpec, VmSpec
from vdc.names import check_name
from vdc.operations import Claim, Opening
from vdc.requests import DeleteSnapshotRequest, RevertRequest, SnapshotRequest
from vdc.schema import Operation, Snapshot, Tenant, Vm, new_id, utc_now
from vdc.states import VmState
from vdc.usage import Use, check_quota
from vdc.usage_events import record_snapshot_use

MAKE, REVERT, DELETE = "snapshot", "revert", "delete-snapshot"
"""Kinds of operations."""

_MADE_OF = {"memory": (VmState.RUNNING,), "disk": (VmState.RUNNING, VmState.STOPPED)}

AT_REST = (VmState.RUNNING, VmState.PAUSED, VmState.STOPPED)
"""States of a machine whose snapshots can be gone back to or deleted."""


@dataclass(frozen=True, slots=True)
class SnapshotClaim:
    """The right to make, go back to or remove one snapshot; `act` is the operation's kind.

    `was` is the machine's state when it was claimed: what it is again after its disks alone were taken back.
    """

    claim: Claim
    act: str
    spec: VmSpec
    snapshot: SnapshotSpec
    label: str
    was: VmState

    @property
    def becomes(self) -> VmState:
        """The machine's state when it has been taken back."""
        return VmState.RUNNING if self.snapshot.kind == "memory" else self.was


def claim_snapshot(
    session: Session,
    request: SnapshotRequest,
    abilities: Abilities,
    limit: int,
    site_days: int = 0,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> SnapshotClaim:
    """Open the operation and write down what is going to be kept. Raises Refused.

    `limit` is how many snapshots a machine may have, `site_days` how old they may become (0: no limit).
    """
    if begun := operations.open_of_run(session, MAKE, flow_run_id):
        return adopt(session, begun)
    vm = find_vm(session, request.vm, request.tenant)
    kind = request.kind
    if kind == "auto":
        kind = "memory" if vm.state == VmState.RUNNING else "disk"
    row = Snapshot(id=new_id(), vm_id=vm.id, kind=kind, ready=False)
    found = _open(session, MAKE, vm, row.id, request.model_dump(mode="json"), actor, flow_run_id)
    if vm.state not in _MADE_OF[kind]:
        what = (
            "with memory is made of a machine that is running"
            if kind == "memory"
            else ("of disks alone is made of a machine that is running or stopped")
        )
        raise InvalidState(f"Machine {vm.name} is {vm.state}: a snapshot {what}.")
    _check_abilities(session, vm, abilities)
    of_vm = Snapshot.vm_id == vm.id
    row.label = request.label or _free_label(session, vm)
    check_name("Snapshot", row.label)
    if session.scalars(select(Snapshot.id).where(of_vm, Snapshot.label == row.label)).first():
        raise Conflict(f"Machine {vm.name} has a snapshot {row.label!r} already.")
    count = session.scalar(select(func.count()).select_from(Snapshot).where(of_vm)) or 0
    if count >= limit:
        raise QuotaExceeded(
            f"Machine {vm.name} has {count} snapshots, and may have {limit} (setting max_snapshots): "
            "delete one first."
        )
    check_quota(session, session.get_one(Tenant, vm.tenant_id), Use(snapshots=1), vm.owner_id)
    check_days(request.keep_days, age_limit(session, vm, site_days), vm)
    if request.keep_days is not None:
        row.expires_at = utc_now() + timedelta(days=request.keep_days)
    row.parent_id = session.scalars(select(Snapshot.id).where(of_vm, Snapshot.current)).first()
    session.add(row)
    return _claim(found, MAKE, vm, row)


def claim_revert(
    session: Session,
    request: RevertRequest,
    abilities: Abilities,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> SnapshotClaim:
    """Open the operation of taking a machine back. Raises Refused."""
    if begun := operations.open_of_run(session, REVERT, flow_run_id):
        return adopt(session, begun)
    found, vm, row = _open_on(session, REVERT, request, actor, flow_run_id)
    _check_at_rest(vm, "it cannot be taken back to a snapshot now")
    _check_abilities(session, vm, abilities)
    if not row.ready:
        raise InvalidState(
            f"Snapshot {row.label!r} of machine {vm.name} is not whole: `vdc reconcile` removes what is left."
        )
    return _claim(found, REVERT, vm, row)


def claim_delete(
    session: Session, request: DeleteSnapshotRequest, *, actor: str, flow_run_id: str | None = None
) -> SnapshotClaim:
    """Open the operation and mark the snapshot as leaving. Raises Refused."""
    if begun := operations.open_of_run(session, DELETE, flow_run_id):
        return adopt(session, begun)
    found, vm, row = _open_on(session, DELETE, request, actor, flow_run_id)
    _check_at_rest(vm, "its snapshots cannot be deleted now")
    return leaving(found, vm, row)


def leaving(claim: Claim, vm: Vm, row: Snapshot) -> SnapshotClaim:
    """Mark a snapshot as being removed."""
    row.ready = False
    return _claim(claim, DELETE, vm, row)


def adopt(session: Session, operation: Operation) -> SnapshotClaim:
    """Take over an open operation on a snapshot."""
    claim = operations.take_over(session, operation)
    row = session.get_one(Snapshot, operation.spec["snapshot_id"])
    return _claim(claim, operation.kind, session.get_one(Vm, operation.object_id), row)


def find_snapshot(session: Session, vm: Vm, label: str) -> Snapshot:
    """The machine's snapshot with that label. Raises NotFound, with those that there are."""
    rows = {row.label: row for row in session.scalars(select(Snapshot).where(Snapshot.vm_id == vm.id))}
    if label not in rows:
        known = f"Known: {', '.join(sorted(rows))}." if rows else "It has none."
        raise NotFound(f"Machine {vm.name} has no snapshot {label!r}. {known}")
    return rows[label]


def open_removal(
    session: Session, vm: Vm, row: Snapshot, actor: str, flow_run_id: str | None
) -> SnapshotClaim:
    """Open an operation for what is left of a snapshot."""
    return leaving(_open(session, DELETE, vm, row.id, {}, actor, flow_run_id), vm, row)


def open_expired(
    session: Session, vm: Vm, row: Snapshot, why: str, actor: str, flow_run_id: str | None
) -> SnapshotClaim:
    """Open the operation that deletes a snapshot which is too old. Raises Refused."""
    claim = _open(session, DELETE, vm, row.id, {"label": row.label, "expired": why}, actor, flow_run_id)
    _check_at_rest(vm, "its snapshots cannot be deleted now")
    return leaving(claim, vm, row)


def _open(
    session: Session,
    kind: str,
    vm: Vm,
    snapshot_id: str,
    asked: dict[str, object],
    actor: str,
    flow_run_id: str | None,
) -> Claim:
    opening = Opening(kind, "vm", vm.id, vm.name, asked | {"snapshot_id": snapshot_id})
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if vm.host_id is None:
        raise Unsupported(f"Machine {vm.name} is in a cloud: only machines on hosts have snapshots.")
    return claim


def _open_on(
    session: Session,
    kind: str,
    request: RevertRequest | DeleteSnapshotRequest,
    actor: str,
    flow_run_id: str | None,
) -> tuple[Claim, Vm, Snapshot]:
    """Open an operation on a snapshot that there is."""
    vm = find_vm(session, request.vm, request.tenant)
    row = find_snapshot(session, vm, request.label)
    return _open(session, kind, vm, row.id, request.model_dump(mode="json"), actor, flow_run_id), vm, row


def _claim(claim: Claim, act: str, vm: Vm, row: Snapshot) -> SnapshotClaim:
    snapshot = SnapshotSpec(row.id, row.kind)
    return SnapshotClaim(claim, act, specs.load(vm.spec), snapshot, row.label, VmState(vm.state))


def _check_at_rest(vm: Vm, what: str) -> None:
    if vm.state not in AT_REST:
        raise InvalidState(f"Machine {vm.name} is {vm.state}: {what}.")


def _check_abilities(session: Session, vm: Vm, abilities: Abilities) -> None:
    host = specs.load(vm.spec).host
    if host.uri not in abilities.snapshotting:
        raise Unsupported(f"The driver of host {host.name} makes no snapshots.")
    for datastore in datastores_of(session, vm):
        if datastore.uri not in abilities.snapshot_disks:
            raise Unsupported(
                f"Machine {vm.name} has a {datastore.disk_format} disk in datastore {datastore.name}: "
                "only qcow2 disks hold snapshots."
            )


def _free_label(session: Session, vm: Vm) -> str:
    taken = set(session.scalars(select(Snapshot.label).where(Snapshot.vm_id == vm.id)))
    return next(label for n in range(1, len(taken) + 2) if (label := f"snap-{n}") not in taken)


def record_taken(session: Session, done: SnapshotClaim, size_mib: int) -> None:
    """It is on the host, and the machine goes on from it.

    Raises Superseded, as the others here, where another process took the operation over.
    """
    told = {"label": done.label, "kind": done.snapshot.kind, "size_mib": size_mib}
    operations.close(session, done.claim, result=told)
    row = session.get_one(Snapshot, done.snapshot.snapshot_id)
    row.ready, row.size_mib = True, size_mib
    make_current(session, row)
    record_snapshot_use(session, row.vm_id, done.claim, "snapshot-taken", utc_now())


def make_current(session: Session, row: Snapshot) -> None:
    """The machine goes on from this snapshot: the next one made is its child."""
    session.execute(update(Snapshot).where(Snapshot.vm_id == row.vm_id).values(current=False))
    row.current = True


def record_removed(session: Session, done: SnapshotClaim, error: str = "") -> None:
    """Nothing of it is left; `error` is why it was not made, if that was the reason."""
    operations.close(session, done.claim, error=error or None, result={"label": done.label})
    row = session.get_one(Snapshot, done.snapshot.snapshot_id)
    children = update(Snapshot).where(Snapshot.parent_id == row.id)
    session.execute(children.values(parent_id=row.parent_id))
    if row.current and row.parent_id:
        make_current(session, session.get_one(Snapshot, row.parent_id))
    session.delete(row)
    if row.size_mib is not None:
        record_snapshot_use(session, row.vm_id, done.claim, "snapshot-removed", utc_now())


def record_unfinished(session: Session, done: SnapshotClaim, error: str) -> None:
    """Something of it may be left on the host: its row stays, not ready, for reconcile to go on."""
    operations.close(session, done.claim, error=error, result={"label": done.label})
