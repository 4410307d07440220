"""Making and removing one machine: named steps of idempotent driver calls, each behind the fence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Datastore
from drivers.seed import build_seed
from tasks import cloud_machines, timing
from tasks.batches import recorded
from tasks.domains import domain_spec
from tasks.environment import environment
from tasks.retrying import retrying
from tasks.seeds import context_of
from vdc.claims.batch import Machine
from vdc.claims.persistent_disks import record_size
from vdc.errors import DriverFailure, Superseded, VdcError
from vdc.model import DiskSpec, NicSpec, VmSpec
from vdc.operations import Fence
from vdc.schema import utc_now

log = logging.getLogger(__name__)

Call = Callable[[], object]
Step = Callable[[VmSpec], Iterator[Call]]
"""A step yields its driver calls instead of making them: the fence is asked before each."""


def ensure_networks(spec: VmSpec) -> Iterator[Call]:
    """Its networks on its host, and its cards' ports there: those of one switch at once."""
    access = environment().access
    nics: dict[str, list[NicSpec]] = {}
    for nic in spec.nics:
        nics.setdefault(nic.vnet.uri, []).append(nic)
        network = registry.network(nic.vnet.uri, spec.host, access)
        yield partial(network.ensure_network, nic.vnet)
    for uri, cards in nics.items():
        yield partial(registry.network(uri, spec.host, access).ensure_ports, cards)


def ensure_disks(spec: VmSpec) -> Iterator[Call]:
    access = environment().access
    for disk in spec.disks:
        store = registry.datastore(disk.datastore_uri, spec.host, access)
        if disk.persistent:
            # Never made: an empty one in its place would hide that what was written is lost.
            yield partial(_require, store, disk)
        else:
            yield partial(store.ensure_disk, disk)


def _require(store: Datastore, disk: DiskSpec) -> None:
    """Raise DriverFailure where a persistent image is not there."""
    if disk.file not in store.read_files():
        raise DriverFailure(f"{store.path(disk.file)}, a persistent image, is not there: No such file.")


def ensure_seed(spec: VmSpec) -> Iterator[Call]:
    content = build_seed(context_of(spec), spec.vm_id, spec.nics)
    store = registry.datastore(spec.seed_datastore_uri, spec.host, environment().access)
    yield partial(store.ensure_seed, spec.seed_file, content)


def ensure_defined(spec: VmSpec) -> Iterator[Call]:
    hypervisor = registry.hypervisor(spec.host, environment().access)
    yield partial(hypervisor.ensure_defined, domain_spec(spec))


def ensure_started(spec: VmSpec) -> Iterator[Call]:
    if spec.start == "stopped":
        return
    hypervisor = registry.hypervisor(spec.host, environment().access)
    yield partial(hypervisor.ensure_started, spec.domain, paused=spec.start == "paused")


def _remove_domain(spec: VmSpec) -> Iterator[Call]:
    hypervisor = registry.hypervisor(spec.host, environment().access)
    yield partial(hypervisor.ensure_removed, spec.domain)


def remove_ports(spec: VmSpec) -> Iterator[Call]:
    devices: dict[str, list[str]] = {}
    for nic in spec.nics:
        devices.setdefault(nic.vnet.uri, []).append(nic.device)
    for uri, names in devices.items():
        network = registry.network(uri, spec.host, environment().access)
        yield partial(network.ensure_ports_removed, names)


def files_of(spec: VmSpec) -> dict[str, list[str]]:
    """Names of a machine's files, by the URI of their datastore; a persistent image is not its own."""
    files: dict[str, list[str]] = {spec.seed_datastore_uri: [spec.seed_file]}
    for disk in spec.disks:
        if disk.persistent:
            continue
        files.setdefault(disk.datastore_uri, []).append(disk.file)
    return files


def _measure_kept(spec: VmSpec) -> Iterator[Call]:
    """What stays takes what its guest has written: it is charged as an image from now on."""
    for disk in spec.disks:
        if disk.persistent:
            store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
            yield partial(_measure, store, disk)


def _measure(store: Datastore, disk: DiskSpec) -> None:
    size = store.read_files().get(disk.file)
    if size is None:
        # Its machine must go all the same; whoever wants another one of it is told.
        log.warning("%s, a persistent image, is not there.", store.path(disk.file))
        return
    recorded(record_size, disk.file, -(-size // 2**20))


def _remove_files(spec: VmSpec) -> Iterator[Call]:
    for uri, names in files_of(spec).items():
        store = registry.datastore(uri, spec.host, environment().access)
        yield partial(store.ensure_removed, names)


PROVISION: Mapping[str, Step] = {
    "ensure network": ensure_networks,
    "ensure disk": ensure_disks,
    "ensure seed": ensure_seed,
    "define": ensure_defined,
    "start": ensure_started,
}

TEARDOWN: Mapping[str, Step] = {
    "remove domain": _remove_domain,
    "remove ports": remove_ports,
    "measure persistent image": _measure_kept,
    "remove files": _remove_files,
}


def run_steps(steps: Mapping[str, Step], machine: Machine, fence: Fence) -> datetime:
    """Take the steps in order; return the instant at which the last one was seen to be done.

    Raises Superseded where the machine's operation is no longer ours, and whatever a step raises, its
    message led by the step, the machine and the host.
    """
    for name, step in steps.items():
        begun, failure, called = timing.now(), "", False
        try:
            for call in step(machine.spec):
                fence.check(machine.claim)
                called = True
                call()
        except Superseded:
            raise
        except VdcError as error:
            spec = machine.spec
            failure = what = " ".join(str(error).split())
            error.args = (f"Step '{name}' of {spec.name} on host {spec.host.name} failed: {what}",)
            raise
        finally:
            if called:
                timing.report(name, begun, machine.spec, failure)
    return utc_now()


@task(name="provision-vm", task_run_name="provision {machine.spec.name}", **retrying())
def provision_vm(machine: Machine, fence: Fence) -> datetime:
    """Make a machine what its spec says, from whatever is there."""
    if machine.spec.cloud:
        return run_steps(cloud_machines.provision(machine, fence), machine, fence)
    return run_steps(PROVISION, machine, fence)


@task(name="guard-vm", task_run_name="guard {machine.spec.name}", **retrying())
def guard_vm(machine: Machine, fence: Fence) -> datetime:
    """Put the rules of its cards' ports into force again."""
    return run_steps({"ensure network": ensure_networks}, machine, fence)


@task(name="filter-vm", task_run_name="filter {machine.spec.name}", **retrying())
def filter_vm(machine: Machine, fence: Fence, running: frozenset[str]) -> datetime:
    """Put what its groups let through into force, if it is `running`: else it comes with its next start."""
    steps = {"ensure network": ensure_networks} if machine.spec.vm_id in running else {}
    return run_steps(steps, machine, fence)


@task(name="unplug-vm", task_run_name="unplug {machine.spec.name}", **retrying())
def unplug_vm(machine: Machine, fence: Fence) -> datetime:
    """Remove its cards' ports from a host where it is not."""
    return run_steps({"remove ports": remove_ports}, machine, fence)


@task(name="teardown-vm", task_run_name="teardown {machine.spec.name}", **retrying())
def teardown_vm(machine: Machine, fence: Fence) -> datetime:
    """Remove all of a machine from its host: the way back of a deployment, and a termination."""
    if machine.spec.cloud:
        return run_steps(cloud_machines.teardown(machine, fence), machine, fence)
    return run_steps(TEARDOWN, machine, fence)
