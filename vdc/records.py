"""What is written when an act is over: state, usage event and the end of the operation, in one transaction.

Each function takes many outcomes, as a mass deployment records them in groups, and passes over those whose
operation was taken over meanwhile: it returns the claims that it recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, insert, select, tuple_, update
from sqlalchemy.orm import Session

from vdc import specs
from vdc.claims import persistent_disks
from vdc.claims.attach import Plug, find_device, without
from vdc.claims.burst import PROVIDER
from vdc.claims.resize import Resize, changes, resized, size_of
from vdc.claims.snapshot import SnapshotClaim, make_current
from vdc.claims.volumes import end_volume, volume_event
from vdc.model import Size, VmSpec
from vdc.operations import Claim, close
from vdc.routers import forget_routers
from vdc.schema import (
    Cdrom,
    Disk,
    Host,
    Image,
    Nic,
    Operation,
    SecurityGroupMember,
    Snapshot,
    Template,
    UsageEvent,
    Vm,
    Volume,
    utc_now,
)
from vdc.states import SETTLED, Desired, VmState, check_move, usage_kind
from vdc.usage_events import record_address_use, site_addresses, with_event


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one machine's operation ended, `at` the instant its last step was seen to be done.

    `error` is empty on success; `clean` tells whether nothing of the machine is left on any host.
    """

    claim: Claim
    spec: VmSpec
    at: datetime
    error: str = ""
    clean: bool = True


def held(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those of the outcomes whose operation is still held by the claim they were made under."""
    # Other writers are excluded while we hold the session: what is ours now is ours until the commit.
    wanted = [(o.claim.operation_id, o.claim.epoch) for o in outcomes]
    open_now = set(
        session.execute(
            select(Operation.id, Operation.epoch).where(
                tuple_(Operation.id, Operation.epoch).in_(wanted), Operation.finished_at.is_(None)
            )
        )
    )
    return [o for o in outcomes if (o.claim.operation_id, o.claim.epoch) in open_now]


def _close(session: Session, outcomes: Sequence[Outcome]) -> None:
    by_error: dict[str, list[str]] = {}
    for o in outcomes:
        by_error.setdefault(o.error, []).append(o.claim.operation_id)
    for error, ids in by_error.items():
        session.execute(
            update(Operation)
            .where(Operation.id.in_(ids))
            .values(
                open_key=None,
                finished_at=utc_now(),
                outcome="failed" if error else "done",
                error=error or None,
            )
        )


def _event(outcome: Outcome, of: Any, kind: str) -> dict[str, Any]:
    spec = outcome.spec
    return {
        "operation_id": outcome.claim.operation_id,
        "vm_id": spec.vm_id,
        "tenant_id": of.tenant_id,
        "kind": kind,
        "at": outcome.at,
        "vcpu": spec.vcpu,
        "memory_mib": spec.memory_mib,
        "disk_mib": sum(d.size_mib for d in spec.disks),
        # The zone may be another than the one that was claimed: an offer may have had no capacity.
        "host": f"{spec.cloud.name}/{of.zone}" if spec.cloud else spec.host.name,
        "provider": PROVIDER if spec.cloud else "local",
        "hourly_price": of.hourly_price,
        # From the making of a machine on they are told by what changes them.
        "snapshot_mib": 0 if kind == "created" else None,
        "image": of.image if kind == "created" else None,
        "addresses": of.addresses if kind == "created" else None,
    }


def _billed(session: Session, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Who pays for a machine, what its provider asks, of which image it was made, and how many addresses of
    the site's networks it has."""
    ids = [o.spec.vm_id for o in outcomes]
    query = (
        select(
            Vm.id,
            Vm.tenant_id,
            Vm.zone,
            Vm.hourly_price,
            Image.name.label("image"),
            site_addresses(Vm.id).scalar_subquery().label("addresses"),
        )
        .outerjoin(Template, Template.id == Vm.template_id)
        .outerjoin(Image, Image.id == Template.image_id)
        .where(Vm.id.in_(ids))
    )
    return {row.id: row for row in session.execute(query)}


def _write_events(session: Session, outcomes: Sequence[Outcome], kinds: Sequence[str]) -> None:
    billed = _billed(session, outcomes)
    rows = [_event(o, billed[o.spec.vm_id], kind) for o in outcomes for kind in kinds]
    if rows:
        session.execute(insert(UsageEvent), rows)


def record_provisioned(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Machines that are what they should be."""
    ours = held(session, outcomes)
    for start in ("running", "paused", "stopped"):
        made = [o for o in ours if o.spec.start == start]
        if not made:
            continue
        session.execute(
            update(Vm)
            .where(Vm.id.in_([o.spec.vm_id for o in made]), Vm.state == VmState.DEPLOYING)
            .values(state=VmState(start), observed=start, observed_at=utc_now())
        )
        _write_events(session, made, ("created",) if start == "stopped" else ("created", "started"))
        for image, outcome in _persistent(session, made):
            persistent_disks.record_taken(session, image, outcome.claim)
    _close(session, ours)
    return ours


def _persistent(session: Session, outcomes: Sequence[Outcome]) -> list[tuple[Image, Outcome]]:
    """The machines of them whose disk is a persistent image, with that."""
    some = [o for o in outcomes if any(disk.persistent for disk in o.spec.disks)]
    return [(image, o) for o in some if (image := persistent_disks.image_of(session, o.spec.vm_id))]


def _release(session: Session, vm_ids: Sequence[str], state: VmState) -> None:
    forget_routers(session, vm_ids)
    session.execute(delete(Nic).where(Nic.vm_id.in_(vm_ids)))
    session.execute(delete(SecurityGroupMember).where(SecurityGroupMember.vm_id.in_(vm_ids)))
    session.execute(delete(Cdrom).where(Cdrom.vm_id.in_(vm_ids)))
    session.execute(delete(Disk).where(Disk.vm_id.in_(vm_ids)))
    session.execute(delete(Snapshot).where(Snapshot.vm_id.in_(vm_ids)))
    session.execute(
        update(Vm)
        .where(Vm.id.in_(vm_ids))
        .values(
            state=state,
            desired=Desired.ABSENT,
            live_name=None,
            observed=None,
            observed_at=utc_now(),
            ended_at=utc_now(),
        )
    )


def record_failed(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Deployments that failed: taken back where `clean`, else still leaving, for reconcile to finish."""
    ours = held(session, outcomes)
    _release(session, [o.spec.vm_id for o in ours if o.clean], VmState.FAILED)
    session.execute(
        update(Vm)
        .where(Vm.id.in_([o.spec.vm_id for o in ours if not o.clean]))
        .values(state=VmState.TERMINATING, desired=Desired.ABSENT)
    )
    _close(session, ours)
    return ours


def record_terminated(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Machines that are gone, or (with an error) still leaving."""
    ours = held(session, outcomes)
    gone = [o for o in ours if not o.error]
    begun = with_event(session, [o.spec.vm_id for o in gone], "created")
    _write_events(session, [o for o in gone if o.spec.vm_id in begun], ("terminated",))
    for image, outcome in _persistent(session, [o for o in gone if o.spec.vm_id in begun]):
        persistent_disks.record_left(session, image, outcome.claim)
    of_vm = {o.spec.vm_id: o for o in gone}
    query = select(Volume, Disk.vm_id).join(Disk, Disk.volume_id == Volume.id).where(Disk.vm_id.in_(of_vm))
    for volume, vm_id in session.execute(query).all():
        end_volume(session, volume, of_vm[vm_id].claim, of_vm[vm_id].at, of_vm[vm_id].spec.host.name)
    _release(session, [o.spec.vm_id for o in gone], VmState.GONE)
    _close(session, ours)
    return ours


def record_changed(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Machines that became what is desired of them."""
    ours = held(session, outcomes)
    vms = {vm.id: vm for vm in session.scalars(select(Vm).where(Vm.id.in_([o.spec.vm_id for o in ours])))}
    for o in ours:
        vm = vms[o.spec.vm_id]
        old, new = VmState(vm.state), SETTLED[Desired(vm.desired)]
        if kind := usage_kind(old, new):
            _write_events(session, [o], (kind,))
        if new is not old:
            check_move(vm.name, old, new)
        vm.state, vm.observed, vm.observed_at = new, new.value, o.at
    _close(session, ours)
    return ours


def record_filtered(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Machines whose rules are in force, or are to be: their specs have had them since the claim."""
    ours = held(session, outcomes)
    _close(session, ours)
    return ours


def record_unchanged(session: Session, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Machines that stayed what they were, as far as is known: they are to stay so."""
    ours = held(session, outcomes)
    ids = [o.spec.vm_id for o in ours]
    session.execute(update(Vm).where(Vm.id.in_(ids)).values(desired=Vm.state))
    _close(session, ours)
    return ours


@dataclass(frozen=True, slots=True)
class Concluded:
    """What became of one machine of a batch, and what state it is in now; `after_s` since the claim."""

    kind: str
    name: str
    host: str
    state: str
    outcome: str
    after_s: float
    error: str


def read_concluded(session: Session, batch: Claim) -> list[Concluded]:
    """All machines of the batch whose operation is over, whoever ended it."""
    query = (
        select(Operation, Vm.name, Vm.state, func.coalesce(Host.name, Vm.zone, ""))
        .join(Vm, Vm.id == Operation.object_id)
        .outerjoin(Host, Host.id == Vm.host_id)
        .where(Operation.parent_id == batch.operation_id, Operation.finished_at.is_not(None))
    )
    return [
        Concluded(
            kind=operation.kind,
            name=name,
            host=host,
            state=state,
            outcome=operation.outcome or "",
            after_s=((operation.finished_at or utc_now()) - operation.started_at).total_seconds(),
            error=operation.error or "",
        )
        for operation, name, state, host in session.execute(query)
    ]


def close_batch(session: Session, batch: Claim) -> str | None:
    """Close a batch once none of its machines has an open operation.

    Returns its error (a summary of the machines' failures), or None. Leaves it open where a machine's
    operation still is: another process has taken that over, and whoever closes the last one closes the batch.
    """
    children = select(func.count(), func.count(Operation.finished_at), func.count(Operation.error)).where(
        Operation.parent_id == batch.operation_id
    )
    total, finished, failed = session.execute(children).one()
    if finished < total:
        return f"{total - finished} of {total} machines were taken over by another process."
    error = None
    if failed:
        first = session.scalars(
            select(Operation.error)
            .where(Operation.parent_id == batch.operation_id, Operation.error.is_not(None))
            .order_by(Operation.finished_at)
        ).first()
        error = f"{failed} of {total} machines failed. {first}"
    close(session, batch, error=error)
    return error


def record_reverted(
    session: Session, done: SnapshotClaim, state: VmState | None, at: datetime, error: str = ""
) -> None:
    """A machine that was taken back to a snapshot, or (with an error) should have been.

    `state` is what it was seen to be afterwards; None where it was not seen: reconcile will.
    Raises Superseded where another process took the operation over.
    """
    close(session, done.claim, error=error or None, result={"label": done.label, "state": state})
    if not error:
        make_current(session, session.get_one(Snapshot, done.snapshot.snapshot_id))
    vm = session.get_one(Vm, done.spec.vm_id)
    old = VmState(vm.state)
    if state is None or state is old:
        return
    check_move(vm.name, old, state)
    if VmState.STOPPED in (old, state):
        kind = "stopped" if state is VmState.STOPPED else "started"
        _write_events(session, [Outcome(done.claim, done.spec, at)], (kind,))
    vm.state, vm.desired = state, Desired(state)
    vm.observed, vm.observed_at = state, at


def record_resized(
    session: Session, done: Resize, has: Size | None, at: datetime, error: str = "", root: str = ""
) -> None:
    """A machine whose size was changed, or (with an error) should have been.

    `root` is why its root file system did not grow with its disk.

    `has` is what it was seen to have afterwards, `at` when; what it has not got yet comes at its next start.
    None: it was not seen, and holds its place with the larger until reconcile goes on.
    Raises Superseded where another process took the operation over.
    """
    before = size_of(done.spec)
    told = None if has is None else {"changes": changes(before, done.wanted, has), "root": root}
    close(session, done.claim, error=error or None, result=told)
    if has is None:
        return
    spec = resized(done.spec, has)
    if has != before:
        _write_events(session, [Outcome(done.claim, spec, at)], ("resized",))
    vm = session.get_one(Vm, spec.vm_id)
    vm.vcpu, vm.memory_mib, vm.spec, vm.resizing = has.vcpu, has.memory_mib, specs.dump(spec), False
    later = None if error else done.wanted
    vm.next_vcpu = later.vcpu if later and later.vcpu != has.vcpu else None
    vm.next_memory_mib = later.memory_mib if later and later.memory_mib != has.memory_mib else None
    first = update(Disk).where(Disk.vm_id == vm.id, Disk.index == spec.disks[0].index)
    session.execute(first.values(size_mib=has.disk_mib))
    persistent_disks.record_grown(session, vm.id, has.disk_mib)


def record_attached(session: Session, done: Plug, at: datetime, error: str = "") -> None:
    """A machine that has the device, or (with an error) that has it still.

    Raises Superseded, as the other two, where another process took the operation over.
    """
    close(session, done.claim, error=error or None, result={"device": done.name})
    row = find_device(session, done.device_id)
    row.ready = True
    if isinstance(row, Disk):
        _write_events(session, [Outcome(done.claim, done.spec, at)], ("disk-attached",))
        volume = session.get_one(Volume, row.volume_id)
        if volume.keep:
            volume_event(session, done.claim, volume, "attached", 0, at, done.spec.host.name)
        volume.keep = False
    elif isinstance(row, Nic):
        record_address_use(session, row, done.claim, "address-leased", at)


def record_detached(session: Session, done: Plug, at: datetime, error: str = "") -> None:
    """A machine that is without the device; `error` is why it did not get it, if that was the reason."""
    close(session, done.claim, error=error or None, result={"device": done.name})
    row, vm = find_device(session, done.device_id), session.get_one(Vm, done.spec.vm_id)
    spec = without(specs.load(vm.spec), done.device)
    vm.spec = specs.dump(spec)
    if isinstance(row, Disk):
        volume = session.get_one(Volume, row.volume_id)
        # One that it never had was never charged with it.
        if not done.attaches:
            _write_events(session, [Outcome(done.claim, spec, at)], ("disk-detached",))
        if not done.keep:
            end_volume(session, volume, done.claim, at, spec.host.name)
        else:
            volume.state, volume.keep = "kept", False
            assert vm.host_id is not None, "only machines on hosts have them"
            volume.host_id = vm.host_id
            if not done.attaches:
                volume_event(session, done.claim, volume, "created", volume.size_mib, at, spec.host.name)
    session.delete(row)
    if isinstance(row, Nic) and not done.attaches:
        record_address_use(session, row, done.claim, "address-released", at)


def record_half(session: Session, done: Plug, error: str) -> None:
    """It is not known whether the machine has the device: reconcile takes it out."""
    close(session, done.claim, error=error, result={"device": done.name})
