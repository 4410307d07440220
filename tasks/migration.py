"""Moving one machine to another host, and finding out where it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Datastore, Hypervisor
from tasks import progress
from tasks.batches import recorded
from tasks.environment import environment
from tasks.machines import Call, Step, ensure_defined, ensure_networks, files_of, remove_ports, run_steps
from tasks.own_storage import drop_copies, is_own, own_disks, prepare
from tasks.power import steps_of
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.claims.migrate import Move, record_settled, record_unsettled
from vdc.errors import DriverFailure, OperationFailed, Superseded, VdcError
from vdc.model import MigrationResult, VmSpec
from vdc.operations import Fence
from vdc.requests import PowerRequest

log = logging.getLogger(__name__)

MIB = 2**20


def _find_files(spec: VmSpec) -> Iterator[Call]:
    """Its disks and seed must be seen on the host that it goes to, but for those that are taken along."""
    files = files_of(spec)
    for cdrom in spec.cdroms:
        files.setdefault(cdrom.datastore_uri, []).append(cdrom.file)
    for uri, names in files.items():
        if is_own(uri):
            continue
        store = registry.datastore(uri, spec.host, environment().access)
        yield partial(require_files, store, names, spec.host.name)


def require_files(store: Datastore, names: list[str], host: str) -> None:
    """Raise DriverFailure where one of the files is not seen on that host."""
    there = store.read_files()
    missing = [store.path(name) for name in names if name not in there]
    if missing:
        raise DriverFailure(
            f"{host}: {', '.join(missing)} cannot be seen there. Is the datastore mounted?", host=host
        )


PREPARE: Mapping[str, Step] = {"ensure network": ensure_networks, "find disks": _find_files}
"""On the host that the machine goes to."""


@task(name="migrate-vm", task_run_name="migrate {move.spec.name} to {move.target.name}", **retrying())
def migrate_vm(move: Move, fence: Fence) -> MigrationResult:
    """Make the target ready and bring the machine there. Goes on with a migration under way.

    Where this raises, the machine may be on either host: `settle_vm` finds out.
    """
    here, there = Machine(move.claim, move.spec), Machine(move.claim, replace(move.spec, host=move.target))
    own = own_disks(move.spec)
    if own or move.restart:
        # An attempt before this one may be under way, or may have come further than it could tell.
        settled = _settle_domain(move, fence)
        if settled is not None:
            return settled
    run_steps(PREPARE, there, fence)
    if move.cold:
        return _move_cold(move, here, there, fence)
    if own:
        run_steps(prepare(move.spec.host, copy=False), there, fence)
    results: list[MigrationResult] = []

    def migrate(spec: VmSpec) -> Iterator[Call]:
        hypervisor = registry.hypervisor(spec.host, environment().access)
        yield lambda: results.append(
            hypervisor.ensure_migrated(
                spec.domain,
                move.target,
                tuning=move.tuning,
                progress=partial(_report, f"migrating {spec.name}"),
                copy=own,
                timeout_s=environment().settings.migration_timeout_s,
            )
        )

    run_steps({"migrate": migrate}, here, fence)
    return results[0]


def _move_cold(move: Move, here: Machine, there: Machine, fence: Fence) -> MigrationResult:
    """The source forgets the machine last: until it runs on the target, or that is done, it is here."""
    began = time.monotonic()
    if move.restart:
        asked = PowerRequest(verb="stop", vms=[], timeout_s=move.stop_timeout_s)
        run_steps(steps_of(here, asked), here, fence)
    stopped = time.monotonic()
    if own_disks(move.spec):
        run_steps(prepare(move.spec.host, copy=True), there, fence)
    run_steps({"define": ensure_defined}, there, fence)
    if move.restart:
        run_steps({"start": _start}, there, fence)
    started = time.monotonic()
    run_steps({"undefine": _undefine}, here, fence)
    if move.restart:
        return MigrationResult(time.monotonic() - began, started - stopped)
    return MigrationResult(None, None)


def _start(spec: VmSpec) -> Iterator[Call]:
    hypervisor = registry.hypervisor(spec.host, environment().access)
    yield partial(hypervisor.ensure_started, spec.domain)


def _undefine(spec: VmSpec) -> Iterator[Call]:
    hypervisor = registry.hypervisor(spec.host, environment().access)
    yield partial(_require_off, hypervisor, spec)
    yield partial(hypervisor.ensure_removed, spec.domain)


def _require_off(hypervisor: Hypervisor, spec: VmSpec) -> None:
    """Removing a domain powers it off, and somebody may have started it behind our back."""
    seen = hypervisor.read_domain(spec.domain)
    if seen is not None and seen.state not in ("stopped", "crashed"):
        raise DriverFailure(
            f"{spec.host.name}: domain {spec.domain} is {seen.state} there, though nobody asked vdc "
            "for that. `vdc reconcile` adopts it; then migrate it again.",
            host=spec.host.name,
        )


def _report(what: str, done_bytes: int, total_bytes: int) -> None:
    progress.report(what, done_bytes // MIB, total_bytes // MIB)


@task(name="settle-vm", task_run_name="settle {move.spec.name}", **retrying())
def settle_vm(move: Move, fence: Fence) -> MigrationResult | None:
    """See to it that the machine is on exactly one of its two hosts: its result on the target, else None.

    One that was stopped for it is started there. What the other host has of it is removed.
    """
    result = _settle_domain(move, fence)
    home, left = move.spec.host, move.target
    if result is not None:
        home, left = left, home
    if move.restart:
        start = {"ensure network": ensure_networks, "start": _start}
        run_steps(start, Machine(move.claim, replace(move.spec, host=home)), fence)
    leftover = Machine(move.claim, replace(move.spec, host=left))
    for step in ({"remove ports": remove_ports}, {"drop copies": drop_copies(home)}):
        try:
            run_steps(step, leftover, fence)
        except Superseded:
            raise
        except VdcError as error:
            # Where the machine is, is known. Reconcile finds what it does not need.
            log.warning("Something of %s may be left on host %s: %s", move.spec.name, left.name, error)
    return result


def _settle_domain(move: Move, fence: Fence) -> MigrationResult | None:
    results: list[MigrationResult | None] = []

    def settle(spec: VmSpec) -> Iterator[Call]:
        hypervisor = registry.hypervisor(spec.host, environment().access)
        timeout_s = environment().settings.migration_timeout_s
        yield lambda: results.append(hypervisor.ensure_settled(spec.domain, move.target, timeout_s=timeout_s))

    run_steps({"settle": settle}, Machine(move.claim, move.spec), fence)
    return results[0]


def move_and_record(move: Move, fence: Fence) -> tuple[MigrationResult | None, str]:
    """Move the machine, see where it is, write that down: its result there, or why it stayed.

    Raises OperationFailed where it could not be seen which of the two hosts it is on.
    """
    failure, told = "", None
    try:
        told = migrate_vm(move, fence)
    except Superseded:
        raise
    except VdcError as error:
        failure = str(error)
    try:
        return settle_and_record(move, fence, failure, told), failure
    except Superseded:
        raise
    except VdcError as error:
        raise OperationFailed(
            f"It could not be seen where {move.spec.name} is{' and runs' * move.restart}: {error} "
            f"`vdc reconcile` goes on. {failure}",
            move.claim.operation_id,
        ) from error


def settle_and_record(
    move: Move, fence: Fence, failure: str, told: MigrationResult | None = None
) -> MigrationResult | None:
    """Find out where the machine is and write it down; `failure` is why, should it not be on its target.

    `told` is what the move took, where it is known that it was stopped meanwhile: no host counts that.

    Raises what `settle_vm` raises: that is written down too, and the machine keeps its place on both hosts.
    """
    try:
        result = settle_vm(move, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unsettled, move, f"{failure} {error}".strip())
        raise
    if result is not None and move.restart and told is not None:
        result = told
    error = "" if result is not None else failure or f"It is not on host {move.target.name}."
    recorded(record_settled, move, result, error)
    return result
