"""Plugging a disk, a drive or a card into one machine, taking it out again, and removing kept disks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Hypervisor
from tasks import telling
from tasks.batches import recorded
from tasks.domains import device_attachment, domain_spec
from tasks.environment import environment
from tasks.images import remove_file
from tasks.machines import Call, Step, ensure_defined, ensure_seed, run_steps
from tasks.migration import require_files
from tasks.retrying import retrying
from vdc.claims.attach import Plug, without
from vdc.claims.batch import Machine
from vdc.claims.volumes import Removal, record_removed, record_unfinished
from vdc.errors import GuestKeeps, OperationFailed, Superseded, VdcError
from vdc.model import CdromSpec, DiskSpec, NicSpec, VmSpec
from vdc.operations import Fence
from vdc.records import record_attached, record_detached, record_half
from vdc.schema import utc_now

UNPLUG_S = 30.0
"""How long a guest may take to let go of a device before it keeps it."""


def _hypervisor(spec: VmSpec) -> Hypervisor:
    return registry.hypervisor(spec.host, environment().access)


@task(name="attach-device", task_run_name="attach {asked.name} to {asked.spec.name}", **retrying())
def attach_device(asked: Plug, fence: Fence) -> datetime:
    """Make what the device needs, plug it in, and describe the machine with it: since when it has it.

    A machine that is off gets it with its next start.
    """
    device = asked.device

    def plug(spec: VmSpec) -> Iterator[Call]:
        attachment = device_attachment(spec, device)
        yield partial(_hypervisor(spec).ensure_attached, spec.domain, attachment)

    steps: dict[str, Step] = {}
    match device:
        case DiskSpec() if not asked.keep:
            steps["make disk"] = partial(_make_disk, device)
        case DiskSpec() | CdromSpec():
            steps["find disk"] = partial(_find_disk, device)
        case NicSpec():
            # The card last: its guest may look into the seed when it comes.
            steps |= {"ensure network": partial(_ensure_network, device), "ensure seed": ensure_seed}
            steps["refresh seed"] = _refresh_seed
    steps |= {"plug in": plug, "define": ensure_defined}
    return run_steps(steps, Machine(asked.claim, asked.spec), fence)


@task(name="detach-device", task_run_name="detach {asked.name} from {asked.spec.name}", **retrying())
def detach_device(asked: Plug, fence: Fence) -> datetime | None:
    """Take the device out, describe the machine without it, and remove what it needed: since when it is out.

    None where its guest does not let go of it: the machine has it, and is described with it.
    """
    device, without_it = asked.device, without(asked.spec, asked.device)
    gone: list[bool] = []

    def unplug(spec: VmSpec) -> Iterator[Call]:
        attachment = device_attachment(spec, device)
        hypervisor = _hypervisor(spec)
        yield lambda: gone.append(hypervisor.ensure_detached(spec.domain, attachment, timeout_s=UNPLUG_S))

    machine = Machine(asked.claim, asked.spec)
    run_steps({"take out": unplug}, machine, fence)
    if not gone[0]:
        run_steps({"define": ensure_defined}, machine, fence)
        return None
    at = run_steps({"define": ensure_defined}, Machine(asked.claim, without_it), fence)
    if isinstance(device, DiskSpec) and not asked.keep:
        run_steps({"remove disk": partial(_remove_disk, device)}, machine, fence)
    if isinstance(device, NicSpec):
        run_steps({"remove port": partial(_remove_port, device)}, machine, fence)
        run_steps({"ensure seed": ensure_seed}, Machine(asked.claim, without_it), fence)
    return at


def _make_disk(disk: DiskSpec, spec: VmSpec) -> Iterator[Call]:
    store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
    yield partial(store.ensure_disk, disk)


def _find_disk(disk: DiskSpec | CdromSpec, spec: VmSpec) -> Iterator[Call]:
    store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
    yield partial(require_files, store, [disk.file], spec.host.name)


def _remove_disk(disk: DiskSpec, spec: VmSpec) -> Iterator[Call]:
    store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
    yield partial(store.ensure_removed, [disk.file])


def _ensure_network(nic: NicSpec, spec: VmSpec) -> Iterator[Call]:
    network = registry.network(nic.vnet.uri, spec.host, environment().access)
    yield partial(network.ensure_network, nic.vnet)
    yield partial(network.ensure_ports, [nic])


def _refresh_seed(spec: VmSpec) -> Iterator[Call]:
    yield partial(_hypervisor(spec).refresh_seed, domain_spec(spec))


def _remove_port(nic: NicSpec, spec: VmSpec) -> Iterator[Call]:
    network = registry.network(nic.vnet.uri, spec.host, environment().access)
    yield partial(network.ensure_ports_removed, [nic.device])


def attach_and_record(asked: Plug, fence: Fence) -> None:
    """Give the machine the device and write it down; where that fails, take it back.

    Raises OperationFailed where the machine did not get it.
    """
    try:
        at = attach_device(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        failure = f"{asked.spec.name} did not get {asked.name}: {error}"
        failure = _take_back(asked, fence, failure)
        telling.plug_result(asked, failure)
        raise OperationFailed(failure, asked.claim.operation_id) from error
    recorded(record_attached, asked, at)
    telling.plug_result(asked, f"It has {asked.name}.")


def _take_back(asked: Plug, fence: Fence, failure: str) -> str:
    """Take out again what could not be attached; returns the sentence to end with."""
    try:
        at = detach_device(asked, fence)
    except Superseded:
        raise
    except VdcError as left:
        failure = f"{failure} What there is of it is taken out by `vdc reconcile`: {left}"
        recorded(record_half, asked, failure)
        return failure
    if at is None:
        failure = f"{failure} Its guest does not let go of it any more: it has it, and pays for it."
        recorded(record_attached, asked, utc_now(), failure)
        return failure
    recorded(record_detached, asked, at, failure)
    return failure


def detach_and_record(asked: Plug, fence: Fence) -> None:
    """Take the device from the machine and write it down.

    Raises GuestKeeps where its guest does, OperationFailed where it is not known whether it has it.
    """
    try:
        at = detach_device(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        failure = (
            f"It is not known whether {asked.spec.name} has {asked.name} still: {error} "
            "`vdc reconcile` goes on."
        )
        recorded(record_half, asked, failure)
        telling.plug_result(asked, failure)
        raise OperationFailed(failure, asked.claim.operation_id) from error
    if at is None:
        failure = (
            f"The guest of {asked.spec.name} did not let go of {asked.name} within {UNPLUG_S:g} s: it has it "
            "still. Has it booted, and is the device not in use there? Else stop the machine first."
        )
        recorded(record_attached, asked, utc_now(), failure)
        telling.plug_result(asked, failure)
        raise GuestKeeps(failure, asked.claim.operation_id)
    recorded(record_detached, asked, at)
    telling.plug_result(asked, f"It is without {asked.name}.")


@task(name="remove-disk", task_run_name="remove disk {asked.name}", **retrying())
def remove_kept_disk(asked: Removal, fence: Fence) -> datetime:
    """Remove the file of a disk that no machine has: since when it is gone."""
    remove_file(asked.target, asked.file, asked.claim, fence)
    return utc_now()


def remove_and_record(asked: Removal, fence: Fence) -> None:
    """Raises what `remove_kept_disk` raises: that is written down too, and reconcile goes on."""
    try:
        at = remove_kept_disk(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unfinished, asked, str(error))
        raise
    recorded(record_removed, asked, at)
