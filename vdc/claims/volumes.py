"""The claim of removing a kept disk, and what is written when it is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from vdc import operations
from vdc.claims.attach import find_volume
from vdc.claims.images import ImageTarget, target_on
from vdc.errors import InvalidState
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.requests import RemoveDiskRequest
from vdc.schema import Datastore, Disk, Host, Operation, Tenant, UsageEvent, Vm, Volume

REMOVE = "remove"
"""Kind of the operation, which is on the disk."""


@dataclass(frozen=True, slots=True)
class Removal:
    """The right to remove a kept disk."""

    claim: Claim
    volume_id: str
    name: str
    file: str
    target: ImageTarget


def claim_remove(
    session: Session, request: RemoveDiskRequest, *, actor: str, flow_run_id: str | None = None
) -> Removal:
    """Open the operation and mark the disk as leaving. Raises Refused, also where a machine has it."""
    if begun := operations.open_of_run(session, REMOVE, flow_run_id):
        return adopt(session, begun)
    tenant = find(session, Tenant, "tenant", request.tenant)
    volume = find_volume(session, request.disk, tenant.id)
    if volume.state == "attached":
        name = (
            session.query(Vm.name)
            .join(Disk, Disk.vm_id == Vm.id)
            .filter(Disk.volume_id == volume.id)
            .scalar()
        )
        raise InvalidState(
            f"Disk {volume.name} is attached to machine {name}: `vdc vm disk detach {name} {volume.name}` "
            "removes it."
        )
    return open_removal(session, volume, request.model_dump(mode="json"), actor, flow_run_id)


def open_removal(
    session: Session, volume: Volume, asked: dict[str, object], actor: str, flow_run_id: str | None
) -> Removal:
    opening = Opening(REMOVE, "disk", volume.id, volume.name, asked)
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    volume.state = "removing"
    return _removal(session, volume, claim)


def adopt(session: Session, operation: Operation) -> Removal:
    """Take over an open removal."""
    claim = operations.take_over(session, operation)
    return _removal(session, session.get_one(Volume, operation.object_id), claim)


def _removal(session: Session, volume: Volume, claim: Claim) -> Removal:
    datastore = session.get_one(Datastore, volume.datastore_id)
    target = target_on(session, datastore, session.get_one(Host, volume.host_id))
    return Removal(claim, volume.id, volume.name, volume.file, target)


def volume_event(
    session: Session, claim: Claim, volume: Volume, kind: str, disk_mib: int, at: datetime, host: str
) -> None:
    """From `at` on the disk is charged as a volume of that size; 0: with the machine that has it."""
    session.add(
        UsageEvent(
            operation_id=claim.operation_id,
            volume_id=volume.id,
            tenant_id=volume.tenant_id,
            kind=kind,
            at=at,
            vcpu=0,
            memory_mib=0,
            disk_mib=disk_mib,
            host=host,
        )
    )


def end_volume(session: Session, volume: Volume, claim: Claim, at: datetime, host: str) -> None:
    """Nothing of the disk is left. What was charged as a volume at some time is no more from `at` on."""
    volume.state, volume.live_name, volume.ended_at = "gone", None, at
    kept = session.query(UsageEvent.id).filter(UsageEvent.volume_id == volume.id).first()
    if kept is not None:
        volume_event(session, claim, volume, "terminated", 0, at, host)


def record_removed(session: Session, done: Removal, at: datetime) -> None:
    """Raises Superseded, as the other one, where another process took the operation over."""
    operations.close(session, done.claim)
    volume = session.get_one(Volume, done.volume_id)
    end_volume(session, volume, done.claim, at, done.target.host.name)


def record_unfinished(session: Session, done: Removal, error: str) -> None:
    """It may be there: its row stays, `removing`, for reconcile to go on."""
    operations.close(session, done.claim, error=error)
