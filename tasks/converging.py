"""What reconcile does about what it decided."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from prefect.tasks import Task

from tasks.attaching import attach_and_record, detach_and_record
from tasks.attaching import remove_and_record as remove_volume
from tasks.batches import claimed, fenced, read, recorded
from tasks.fanout import Record, Recorder, act_on_each
from tasks.images import remove_and_record as remove_and_record_image
from tasks.images import switch_and_record
from tasks.machines import guard_vm, provision_vm, teardown_vm, unplug_vm
from tasks.migration import settle_and_record
from tasks.observation import observe_datastore, observe_host
from tasks.own_storage import drop_copies_of
from tasks.power import power_vm
from tasks.releasing import make_machines
from tasks.resizing import resize_and_record
from tasks.routers import replace_routers
from tasks.saving import remove_and_record as remove_saving
from tasks.snapshots import remove_and_record, revert_and_record
from vdc import reconciliation
from vdc.claims.attach import Plug
from vdc.claims.batch import Batch, Machine
from vdc.claims.hold import claim_due
from vdc.claims.images import IMPORT, ImageClaim
from vdc.claims.migrate import Move
from vdc.claims.persistence import Switch
from vdc.claims.resize import Resize
from vdc.claims.saving import SavingClaim
from vdc.claims.scale_test import machines_left, take_over_machines
from vdc.claims.snapshot import MAKE, REVERT, SnapshotClaim
from vdc.claims.terminate import claim_terminate
from vdc.claims.volumes import Removal
from vdc.errors import VdcError
from vdc.model import HostRef
from vdc.operations import Claim, Fence, close
from vdc.reconciliation import (
    DIED,
    DIED_MIGRATING,
    Dead,
    Finding,
    Places,
    World,
    record_cleaned,
    record_recovered,
)
from vdc.records import (
    close_batch,
    record_changed,
    record_failed,
    record_provisioned,
    record_terminated,
    record_unchanged,
)
from vdc.requests import PowerRequest, TerminateRequest


def finish(dead: Dead, fence: Fence) -> list[Finding]:
    """Finish what dead processes left open: deployments forward, removals to their end, imports back."""
    making = Recorder(done=record_provisioned, failed=record_failed)
    act_on_each("finishing", provision_vm, dead.forward, fence, making, undo=teardown_vm)
    act_on_each("taking back", teardown_vm, dead.back, fence, making)
    leaving = Recorder(done=record_terminated, failed=record_terminated)
    act_on_each("terminating", teardown_vm, dead.leaving, fence, leaving)
    findings = [
        Finding("interrupted operation", f"vm/{machine.spec.name}", machine.spec.host.name, action)
        for machines, action in (
            (dead.forward, "deployment taken forward"),
            (dead.back, "deployment taken back"),
            (dead.leaving, "termination finished"),
        )
        for machine in machines
    ]
    findings += [_finish_image(image, fence, "interrupted operation") for image in dead.images]
    findings += [_finish_switch(asked, fence, "interrupted operation") for asked in dead.renamed]
    findings += [_finish_saving(saving, fence) for saving in dead.savings]
    findings += [_settle(move, fence, "interrupted operation") for move in dead.moves]
    findings += _finish_switching(dead.switched, fence)
    replace_routers(dead.redeployed, fence)
    findings += [
        Finding("interrupted operation", f"vm/{m.spec.name}", m.spec.host.name, _redeployed(m))
        for m in dead.redeployed
    ]
    findings += [_finish_snapshot(asked, fence, "interrupted operation") for asked in dead.snapshots]
    findings += [_finish_resize(asked, fence, "interrupted operation") for asked in dead.resizes]
    findings += [_finish_plug(asked, fence, "interrupted operation") for asked in dead.plugs]
    findings += [_finish_volume(asked, fence, "interrupted operation") for asked in dead.volumes]
    for claim in dead.others:
        recorded(partial(close, error=DIED), claim)
    for claim in dead.batches:
        recorded(close_batch, claim)
    for test in dead.tests:
        findings += _bury(test)
    return findings


def _finish_switching(switched: Sequence[tuple[PowerRequest, Machine]], fence: Fence) -> list[Finding]:
    """Bring machines to what was asked of them; what became of each is in its operation."""
    for request in {request.model_dump_json(): request for request, _ in switched}.values():
        machines = [machine for asked, machine in switched if asked == request]
        recorder = Recorder(done=record_changed, failed=record_unchanged)
        act_on_each(request.verb, power_vm, machines, fence, recorder, given={"request": request})
    return [
        Finding("interrupted operation", f"vm/{m.spec.name}", m.spec.host.name, _came_of(request, m))
        for request, m in switched
    ]


def _redeployed(machine: Machine) -> str:
    error = read(reconciliation.read_error, machine.claim.operation_id)
    return f"redeployment not finished: {error}" if error else "redeployment finished"


def _came_of(request: PowerRequest, machine: Machine) -> str:
    error = read(reconciliation.read_error, machine.claim.operation_id)
    return f"{request.verb} not finished: {error}" if error else f"{request.verb} finished"


def _bury(test: Claim) -> list[Finding]:
    """End a scale test whose process died."""
    try:
        findings = end_scale_test(test)
    except VdcError as error:
        # Its operation stays open, and is taken over again.
        return [Finding("interrupted scale test", test.operation_id, "-", f"not removed yet: {error}")]
    recorded(partial(close, error=DIED), test)
    return findings


def end_scale_test(test: Claim) -> list[Finding]:
    """Take back, or remove, every machine of a scale test that is still there. Raises Refused."""
    dead = recorded(take_over_machines, test.operation_id)
    with fenced(*dead.claims) as fence:
        findings = finish(dead, fence)
    left = read(machines_left, test.operation_id)
    if not left:
        return findings
    batch = claimed(claim_terminate, TerminateRequest(vms=left))
    return findings + _act(
        batch, "terminating", teardown_vm, record_terminated, "left by a scale test", "removed"
    )


def observe(places: Places) -> World:
    """Look at every host and every datastore, all at once."""
    hosts = [
        observe_host.submit(host, list(networks), places.nics.get(host.name, ()))
        for host, networks in places.hosts
    ]
    looks = [(uri, list(refs), False) for uri, refs in places.datastores]
    looks += [(uri, [host], True) for uri, host in places.parts]
    stores = [observe_datastore.submit(uri, refs, part=part) for uri, refs, part in looks]
    seen = (future.result() for future in stores)
    return World(
        tuple(future.result() for future in hosts), tuple(store for store in seen if store is not None)
    )


def recover(vm_ids: Sequence[str], since: datetime) -> list[Finding]:
    """Make machines again whose domain crashed or is nowhere, from their disks."""
    batch = claimed(reconciliation.claim_machines, "recover", vm_ids, since=since)
    return _act(batch, "recovering", provision_vm, record_recovered, "domain lost", "recovered")


def release_due(since: datetime) -> list[Finding]:
    """Release machines on hold whose time has come."""
    released = claimed(claim_due, since)
    if released is None:
        return []
    make_machines(released.batch)
    error = recorded(close_batch, released.batch.claim)
    made = [(m.spec.name, m.spec.host.name, error or "deployed") for m in released.batch.machines]
    stopped = [(name, "-", "may be started again") for name in released.stopped]
    return [Finding("hold is over", f"vm/{name}", host, action) for name, host, action in (*made, *stopped)]


def finish_leaving(vm_ids: Sequence[str], since: datetime) -> list[Finding]:
    """Remove machines whose removal was not finished."""
    batch = claimed(reconciliation.claim_machines, "terminate", vm_ids, since=since)
    return _act(batch, "terminating", teardown_vm, record_terminated, "unfinished removal", "removed")


def settle(vm_ids: Sequence[str], since: datetime) -> list[Finding]:
    """Find out where machines are whose migration ended in the dark, once both hosts answer again."""
    moves = claimed(reconciliation.claim_settling, vm_ids, since=since) if vm_ids else []
    with fenced(*(move.claim for move in moves)) as fence:
        return [_settle(move, fence, "unfinished migration") for move in moves]


def _settle(move: Move, fence: Fence, found: str) -> Finding:
    vm = f"vm/{move.spec.name}"
    try:
        moved = settle_and_record(move, fence, DIED_MIGRATING) is not None
    except VdcError as error:
        return Finding(found, vm, f"{move.spec.host.name}, {move.target.name}", f"not settled yet: {error}")
    if moved:
        return Finding(found, vm, move.target.name, "migration finished")
    return Finding(found, vm, move.spec.host.name, "migration did not happen; it is where it was")


def remove_unfinished_snapshots(world: World, since: datetime) -> list[Finding]:
    """Remove snapshots that were not made, or not removed, by now."""
    claims = claimed(reconciliation.claim_unfinished_snapshots, world, since=since)
    with fenced(*(asked.claim for asked in claims)) as fence:
        return [_finish_snapshot(asked, fence, "unfinished snapshot") for asked in claims]


def _finish_snapshot(asked: SnapshotClaim, fence: Fence, found: str) -> Finding:
    vm, host = f"vm/{asked.spec.name}", asked.spec.host.name
    try:
        if asked.act == REVERT:
            revert_and_record(asked, fence)
            return Finding(found, vm, host, f"taken back to snapshot {asked.label}")
        remove_and_record(asked, fence, DIED if asked.act == MAKE else "")
    except VdcError as error:
        return Finding(found, vm, host, f"not finished yet: {error}")
    return Finding(found, vm, host, f"snapshot {asked.label} removed")


def finish_resizes(world: World, since: datetime) -> list[Finding]:
    """Bring machines to their size that could not be reached when it was changed."""
    claims = claimed(reconciliation.claim_unfinished_resizes, world, since=since)
    with fenced(*(asked.claim for asked in claims)) as fence:
        return [_finish_resize(asked, fence, "unfinished resize") for asked in claims]


def _finish_resize(asked: Resize, fence: Fence, found: str) -> Finding:
    vm, host = f"vm/{asked.spec.name}", asked.spec.host.name
    try:
        resize_and_record(asked, fence)
    except VdcError as error:
        return Finding(found, vm, host, f"not finished: {error}")
    return Finding(found, vm, host, "resize finished")


def finish_devices(world: World, since: datetime) -> list[Finding]:
    """Take out devices of which it is not known whether their machines have them."""
    claims = claimed(reconciliation.claim_unfinished_devices, world, since=since)
    with fenced(*(asked.claim for asked in claims)) as fence:
        return [_finish_plug(asked, fence, "unfinished device") for asked in claims]


def _finish_plug(asked: Plug, fence: Fence, found: str) -> Finding:
    vm, host = f"vm/{asked.spec.name}", asked.spec.host.name
    try:
        (attach_and_record if asked.attaches else detach_and_record)(asked, fence)
    except VdcError as error:
        return Finding(found, vm, host, f"not finished: {error}")
    return Finding(found, vm, host, f"{asked.name} is {'in' if asked.attaches else 'out'}")


def remove_unfinished_volumes(since: datetime) -> list[Finding]:
    """Remove kept disks that were to be removed and could not be."""
    claims = claimed(reconciliation.claim_unfinished_volumes, since=since)
    with fenced(*(asked.claim for asked in claims)) as fence:
        return [_finish_volume(asked, fence, "unfinished removal") for asked in claims]


def _finish_volume(asked: Removal, fence: Fence, found: str) -> Finding:
    try:
        remove_volume(asked, fence)
    except VdcError as error:
        return Finding(found, f"disk/{asked.name}", asked.target.host.name, f"not finished yet: {error}")
    return Finding(found, f"disk/{asked.name}", asked.target.host.name, "removed")


def remove_unfinished_images(since: datetime) -> list[Finding]:
    """Remove images that were to be removed and could not be."""
    claims = claimed(reconciliation.claim_unfinished_images, since=since)
    with fenced(*(image.claim for image in claims)) as fence:
        return [_finish_image(image, fence, "unfinished removal") for image in claims]


def switch_unfinished_images(since: datetime) -> list[Finding]:
    """Rename the files of images that were to become persistent, or golden again, and could not yet."""
    claims = claimed(reconciliation.claim_unfinished_switches, since=since)
    with fenced(*(asked.claim for asked in claims)) as fence:
        return [_finish_switch(asked, fence, "unfinished change") for asked in claims]


def _finish_switch(asked: Switch, fence: Fence, found: str) -> Finding:
    try:
        switch_and_record(asked, fence)
    except VdcError as error:
        action = f"not finished yet: {error}"
    else:
        action = asked.said
    return Finding(found, f"image/{asked.made.name}", asked.made.target.host.name, action)


def _finish_image(image: ImageClaim, fence: Fence, found: str) -> Finding:
    made = image.act == IMPORT
    try:
        remove_and_record_image(image, fence, DIED if made else "")
    except VdcError as error:
        action = f"not finished yet: {error}"
    else:
        action = "import taken back" if made else "removed"
    return Finding(found, f"image/{image.name}", image.target.host.name, action)


def _finish_saving(saving: SavingClaim, fence: Fence) -> Finding:
    try:
        remove_saving(saving, fence, DIED)
    except VdcError as error:
        action = f"not finished yet: {error}"
    else:
        action = f"image of {saving.source_name} taken back"
    host = saving.made.target.host.name
    return Finding("interrupted operation", f"image/{saving.made.name}", host, action)


def clean(leftovers: Sequence[tuple[str, str]], hosts: Sequence[HostRef], since: datetime) -> list[Finding]:
    """Remove what ended machines left on a host."""
    findings: list[Finding] = []
    by_name = {host.name: host for host in hosts}
    for name in sorted({host for _, host in leftovers}):
        ids = [vm_id for vm_id, host in leftovers if host == name]
        batch = claimed(reconciliation.claim_machines, "clean", ids, since=since)
        if batch:
            # What was left is on the host where it was seen, wherever the machine lived last.
            there = tuple(Machine(m.claim, replace(m.spec, host=by_name[name])) for m in batch.machines)
            batch = Batch(batch.claim, there)
        findings += _act(
            batch, "cleaning", teardown_vm, record_cleaned, "left by an ended machine", "removed"
        )
    return findings


def clean_copies(
    copies: Sequence[tuple[str, str]], hosts: Sequence[HostRef], since: datetime
) -> list[Finding]:
    """Remove disks that a migration has left on a host where the machine is not."""
    findings: list[Finding] = []
    for host in hosts:
        ids = [vm_id for vm_id, name in copies if name == host.name]
        batch = claimed(reconciliation.claim_machines, "clean", ids, since=since) if ids else None
        if batch is None:
            continue
        with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
            recorder = Recorder(done=record_cleaned, failed=record_cleaned)
            act_on_each("cleaning", drop_copies_of, batch.machines, fence, recorder, given={"where": host})
        error = recorded(close_batch, batch.claim)
        findings += [
            Finding("disk left by a migration", f"vm/{m.spec.name}", host.name, error or "removed")
            for m in batch.machines
        ]
    return findings


def guard(vm_ids: Sequence[str], since: datetime) -> list[Finding]:
    """Put rules into force again that somebody has removed from the ports of machines that run."""
    batch = claimed(reconciliation.claim_machines, "guard", vm_ids, since=since) if vm_ids else None
    return _act(batch, "guarding", guard_vm, record_cleaned, "port without its rules", "restored")


def clean_ports(
    strays: Sequence[tuple[str, str]], hosts: Sequence[HostRef], since: datetime
) -> list[Finding]:
    """Remove ports that a migration has left on a host where the machine is not."""
    findings: list[Finding] = []
    for host in hosts:
        ids = [vm_id for vm_id, name in strays if name == host.name]
        batch = claimed(reconciliation.claim_machines, "clean", ids, since=since) if ids else None
        if batch:
            there = tuple(Machine(m.claim, replace(m.spec, host=host)) for m in batch.machines)
            batch = Batch(batch.claim, there)
        findings += _act(batch, "cleaning", unplug_vm, record_cleaned, "port left by a migration", "removed")
    return findings


def clean_clouds(vm_ids: Sequence[str], since: datetime) -> list[Finding]:
    """Terminate instances of machines that have ended: they run on, and cost."""
    batch = claimed(reconciliation.claim_machines, "clean", vm_ids, since=since)
    found = "instance of an ended machine"
    return _act(batch, "cleaning", teardown_vm, record_cleaned, found, "terminated")


def _act(
    batch: Batch | None, what: str, task: Task[..., Any], record: Record, found: str, action: str
) -> list[Finding]:
    if batch is None:
        return []
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        act_on_each(what, task, batch.machines, fence, Recorder(done=record, failed=record))
    error = recorded(close_batch, batch.claim)
    return [Finding(found, f"vm/{m.spec.name}", m.spec.host.name, error or action) for m in batch.machines]
