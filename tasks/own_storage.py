"""Disks in datastores of which each host has a part of its own: what moves takes them along."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Hypervisor
from tasks.environment import environment
from tasks.machines import Call, Step, ensure_disks, ensure_seed, files_of, run_steps
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.errors import DriverFailure
from vdc.model import HostRef, VmSpec
from vdc.operations import Fence


def is_own(uri: str) -> bool:
    """Whether each host has a part of this datastore for itself."""
    return not registry.datastore_capabilities(uri).shared


def own_disks(spec: VmSpec) -> tuple[int, ...]:
    """Which of a machine's disks (their index) its host has for itself."""
    return tuple(disk.index for disk in spec.disks if is_own(disk.datastore_uri))


def _clear(spec: VmSpec) -> Iterator[Call]:
    for uri, names in files_of(spec).items():
        if is_own(uri):
            store = registry.datastore(uri, spec.host, environment().access)
            yield partial(store.ensure_removed, names)


def prepare(source: HostRef, *, copy: bool) -> Mapping[str, Step]:
    """On the host that a machine goes to: disks as they were made, or (`copy`) as they are on the source.

    An earlier copy is no longer what the machine has, and is removed first, if the machine is on the source:
    nothing may be under way between the two hosts.
    """

    def copy_disks(spec: VmSpec) -> Iterator[Call]:
        for disk in _own(spec).disks:
            store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
            yield partial(store.ensure_disk_from, disk, source)

    def make_disks(spec: VmSpec) -> Iterator[Call]:
        yield from ensure_disks(_own(spec))

    def write_seed(spec: VmSpec) -> Iterator[Call]:
        if is_own(spec.seed_datastore_uri):
            yield from ensure_seed(spec)

    disks = {"copy disks": copy_disks} if copy else {"make disks": make_disks}
    return {"clear": drop_copies(source), **disks, "write seed": write_seed}


def _own(spec: VmSpec) -> VmSpec:
    """The machine with those of its disks alone that its host has for itself."""
    return replace(spec, disks=tuple(d for d in spec.disks if is_own(d.datastore_uri)))


def drop_copies(home: HostRef) -> Step:
    """Remove what a host has of a machine that is on `home`. Raises DriverFailure if it is not there."""

    def drop(spec: VmSpec) -> Iterator[Call]:
        if any(is_own(uri) for uri in files_of(spec)):
            hypervisor = registry.hypervisor(home, environment().access)
            yield partial(_require_there, hypervisor, spec.domain, home)
            yield from _clear(spec)

    return drop


def _require_there(hypervisor: Hypervisor, domain: str, home: HostRef) -> None:
    if hypervisor.read_domain(domain) is None:
        raise DriverFailure(
            f"{home.name}: domain {domain} is not there: its disks elsewhere stay.", host=home.name
        )


@task(name="drop-copies", task_run_name="drop copies of {machine.spec.name}", **retrying())
def drop_copies_of(machine: Machine, fence: Fence, where: HostRef) -> datetime:
    """Remove the copies of a machine's disks that a migration has left on another host."""
    there = replace(machine, spec=replace(machine.spec, host=where))
    return run_steps({"drop copies": drop_copies(machine.spec.host)}, there, fence)
