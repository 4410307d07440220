"""Making, going back to and removing one snapshot of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Hypervisor
from tasks.batches import recorded
from tasks.domains import domain_spec
from tasks.environment import environment
from tasks.machines import Call, ensure_networks, run_steps
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.claims.snapshot import SnapshotClaim, record_removed, record_unfinished
from vdc.claims.snapshot_sweep import Due, Swept
from vdc.errors import DriverFailure, OperationFailed, Superseded, VdcError
from vdc.model import SnapshotSeen, VmSpec
from vdc.operations import Fence
from vdc.records import record_reverted
from vdc.schema import utc_now
from vdc.states import VmState


def _hypervisor(spec: VmSpec) -> Hypervisor:
    return registry.hypervisor(spec.host, environment().access)


@task(name="take-snapshot", task_run_name="snapshot {asked.spec.name}", **retrying())
def take_snapshot(asked: SnapshotClaim, fence: Fence) -> int:
    """Keep the machine's present state; returns how many MiB of memory were kept."""
    seen: list[SnapshotSeen] = []

    def take(spec: VmSpec) -> Iterator[Call]:
        hypervisor, domain = _hypervisor(spec), domain_spec(spec)
        timeout_s = environment().settings.snapshot_timeout_s
        yield partial(hypervisor.ensure_snapshot, domain, asked.snapshot, timeout_s=timeout_s)
        yield lambda: seen.extend(hypervisor.read_snapshots(domain))

    run_steps({"make snapshot": take}, Machine(asked.claim, asked.spec), fence)
    for one in seen:
        if one.snapshot_id == asked.snapshot.snapshot_id and one.whole:
            return one.size_mib
    raise DriverFailure(f"Snapshot {asked.label!r} of {asked.spec.name} was made and is not there.")


@task(name="remove-snapshot", task_run_name="remove snapshot of {asked.spec.name}", **retrying())
def remove_snapshot(asked: SnapshotClaim, fence: Fence) -> None:
    """Remove it from the machine's disks, however much of it is there."""

    def remove(spec: VmSpec) -> Iterator[Call]:
        hypervisor = _hypervisor(spec)
        yield partial(hypervisor.ensure_snapshot_removed, domain_spec(spec), asked.snapshot.snapshot_id)

    run_steps({"remove snapshot": remove}, Machine(asked.claim, asked.spec), fence)


@task(name="revert-vm", task_run_name="revert {asked.spec.name}", **retrying())
def revert_vm(asked: SnapshotClaim, fence: Fence) -> datetime:
    """Take the machine back; returns when it was seen to be done."""

    def revert(spec: VmSpec) -> Iterator[Call]:
        yield partial(
            _hypervisor(spec).ensure_reverted,
            domain_spec(spec),
            asked.snapshot,
            start=asked.was.value,
            timeout_s=environment().settings.snapshot_timeout_s,
        )

    steps = {"ensure network": ensure_networks, "revert": revert}
    return run_steps(steps, Machine(asked.claim, asked.spec), fence)


def remove_and_record(asked: SnapshotClaim, fence: Fence, why: str = "") -> None:
    """Remove a snapshot and write that down; `why` is the reason, where it should have been made.

    Raises what `remove_snapshot` raises: that is written down too, and reconcile goes on.
    """
    try:
        remove_snapshot(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unfinished, asked, f"{why} {error}".strip())
        raise
    recorded(record_removed, asked, why)


def sweep_one(asked: SnapshotClaim, due: Due, fence: Fence) -> Swept:
    """Remove a snapshot that is too old; a failure, or another process that took over, is told."""
    try:
        remove_and_record(asked, fence)
    except VdcError as error:
        return Swept(due.vm, due.tenant, due.label, "failed", str(error))
    return Swept(due.vm, due.tenant, due.label, "removed", due.why)


def revert_and_record(asked: SnapshotClaim, fence: Fence) -> None:
    """Take the machine back and write down what it is then, also after a failure.

    Raises OperationFailed where it may not be back.
    """
    try:
        at = revert_vm(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        state = _look(asked.spec)
        recorded(record_reverted, asked, state, utc_now(), str(error))
        is_now = f"It is {state.value} now" if state else "It was not seen what it is now"
        raise OperationFailed(
            f"{asked.spec.name} may not be back at {asked.label!r}: {error} {is_now}; "
            "the snapshot is still there: revert again.",
            asked.claim.operation_id,
        ) from error
    recorded(record_reverted, asked, asked.becomes, at)


def _look(spec: VmSpec) -> VmState | None:
    """What the machine is, if its host says so now and it is anything that it may stay."""
    try:
        seen = _hypervisor(spec).read_domain(spec.domain)
    except VdcError:
        return None
    return VmState(seen.state) if seen and seen.state in ("running", "paused", "stopped") else None
