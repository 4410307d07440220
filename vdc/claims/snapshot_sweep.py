"""Removing snapshots that are older than they may become, and saying anew how long one is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import visible
from vdc.claims.snapshot import SnapshotClaim, find_snapshot, open_expired
from vdc.claims.snapshot_age import age_limit, check_days, due_at
from vdc.claims.terminate import find_vm
from vdc.errors import InvalidState, Refused
from vdc.operations import Opening
from vdc.schema import Snapshot, Tenant, Vm, utc_now
from vdc.states import HOLDING, VmState, check_allowed

KEEP = "keep-snapshot"
"""Kind of the operation that says anew how long a snapshot is kept."""


@dataclass(frozen=True, slots=True)
class Due:
    """A snapshot that is to go since `due_at`, and why."""

    snapshot_id: str
    vm_id: str
    vm: str
    tenant: str
    label: str
    kind: str
    size_mib: int | None
    created_at: datetime
    due_at: datetime
    why: str


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of a snapshot that was too old: `removed`, `left` as it is, or `failed`; and why."""

    vm: str
    tenant: str
    label: str
    outcome: str
    why: str


def read_due(session: Session, site_days: int, now: datetime, tenant: str = "") -> list[Due]:
    """Snapshots of machines that are there and that are too old, the longest due first."""
    query = (
        select(Snapshot, Vm, Tenant.name)
        .join(Vm, Vm.id == Snapshot.vm_id)
        .join(Tenant, Tenant.id == Vm.tenant_id)
        .where(Snapshot.ready, Vm.state.in_(HOLDING), visible(session, Vm))
    )
    if tenant:
        query = query.where(Tenant.name == tenant)
    found = []
    for row, vm, whose in session.execute(query):
        end, why = due_at(row, age_limit(session, vm, site_days))
        if end is not None and end <= now:
            size, made = row.size_mib, row.created_at
            found.append(Due(row.id, vm.id, vm.name, whose, row.label, row.kind, size, made, end, why))
    return sorted(found, key=lambda due: (due.due_at, due.snapshot_id))


def claim_due(
    session: Session, due: Due, *, actor: str, flow_run_id: str | None = None
) -> SnapshotClaim | str | None:
    """Open the ordinary operation that deletes a snapshot; why it cannot be now; None where it is gone.

    What cannot be now is tried again by the next sweep.
    """
    row = session.get(Snapshot, due.snapshot_id)
    if row is None or not row.ready:
        return None
    vm = session.get_one(Vm, due.vm_id)
    try:
        with session.begin_nested():
            return open_expired(session, vm, row, due.why, actor, flow_run_id)
    except Refused as error:
        return str(error)


def keep(
    session: Session, name: str, label: str, days: int | None, site_days: int, tenant: str = "", *, actor: str
) -> Snapshot:
    """Say anew how long a snapshot is kept: for `days` after it was made; None: as long as it may.

    Raises Refused, also where that would be over already.
    """
    vm = find_vm(session, name, tenant)
    row = find_snapshot(session, vm, label)
    check_allowed("snapshot keep", vm.name, VmState(vm.state))
    opening = Opening(KEEP, "vm", vm.id, vm.name, {"label": label, "days": days})
    claim = operations.open_one(session, opening, actor=actor)
    check_days(days, age_limit(session, vm, site_days), vm)
    end = None if days is None else row.created_at + timedelta(days=days)
    if end is not None and end <= utc_now():
        raise InvalidState(
            f"Snapshot {label} of machine {vm.name} is older than {days} days: "
            f"`vdc vm snapshot delete {vm.name} {label}` removes it."
        )
    row.expires_at = end
    operations.close(session, claim)
    return row
