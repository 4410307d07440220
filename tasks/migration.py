"""Moving one machine to another host, and finding out where it is."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Datastore, Hypervisor
from tasks import progress
from tasks.batches import recorded
from tasks.environment import environment
from tasks.machines import Call, Step, ensure_defined, ensure_networks, remove_ports, run_steps
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.claims.migrate import Move, record_settled, record_unsettled
from vdc.errors import DriverFailure, OperationFailed, Superseded, VdcError
from vdc.model import MigrationResult, VmSpec
from vdc.operations import Fence

log = logging.getLogger(__name__)

MIB = 2**20


def _find_files(spec: VmSpec) -> Iterator[Call]:
    """Its disks and seed must be seen on the host that it goes to."""
    files: dict[str, list[str]] = {spec.seed_datastore_uri: [spec.seed_file]}
    for disk in (*spec.disks, *spec.cdroms):
        files.setdefault(disk.datastore_uri, []).append(disk.file)
    for uri, names in files.items():
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
    there = Machine(move.claim, replace(move.spec, host=move.target))
    run_steps(PREPARE, there, fence)
    if move.cold:
        run_steps({"define": ensure_defined}, there, fence)
        run_steps({"undefine": _undefine}, Machine(move.claim, move.spec), fence)
        return MigrationResult(None, None)
    results: list[MigrationResult] = []

    def migrate(spec: VmSpec) -> Iterator[Call]:
        hypervisor = registry.hypervisor(spec.host, environment().access)
        yield lambda: results.append(
            hypervisor.ensure_migrated(
                spec.domain,
                move.target,
                tuning=move.tuning,
                progress=partial(_report, f"migrating {spec.name}"),
                timeout_s=environment().settings.migration_timeout_s,
            )
        )

    run_steps({"migrate": migrate}, Machine(move.claim, move.spec), fence)
    return results[0]


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
    """See to it that the machine is on exactly one of its two hosts: its result on the target, else None."""
    results: list[MigrationResult | None] = []

    def settle(spec: VmSpec) -> Iterator[Call]:
        hypervisor = registry.hypervisor(spec.host, environment().access)
        timeout_s = environment().settings.migration_timeout_s
        yield lambda: results.append(hypervisor.ensure_settled(spec.domain, move.target, timeout_s=timeout_s))

    run_steps({"settle": settle}, Machine(move.claim, move.spec), fence)
    left = move.spec.host if results[0] is not None else move.target
    try:
        run_steps({"remove ports": remove_ports}, Machine(move.claim, replace(move.spec, host=left)), fence)
    except Superseded:
        raise
    except VdcError as error:
        # Where the machine is, is known. A port without its domain carries nothing.
        log.warning("Ports of %s may be left on host %s: %s", move.spec.name, left.name, error)
    return results[0]


def move_and_record(move: Move, fence: Fence) -> tuple[MigrationResult | None, str]:
    """Move the machine, see where it is, write that down: its result there, or why it stayed.

    Raises OperationFailed where it could not be seen which of the two hosts it is on.
    """
    failure = ""
    try:
        migrate_vm(move, fence)
    except Superseded:
        raise
    except VdcError as error:
        failure = str(error)
    try:
        return settle_and_record(move, fence, failure), failure
    except Superseded:
        raise
    except VdcError as error:
        raise OperationFailed(
            f"It could not be seen where {move.spec.name} is: {error} `vdc reconcile` goes on. {failure}",
            move.claim.operation_id,
        ) from error


def settle_and_record(move: Move, fence: Fence, failure: str) -> MigrationResult | None:
    """Find out where the machine is and write it down; `failure` is why, should it not be on its target.

    Raises what `settle_vm` raises: that is written down too, and the machine keeps its place on both hosts.
    """
    try:
        result = settle_vm(move, fence)
    except Superseded:
        raise
    except VdcError as error:
        recorded(record_unsettled, move, f"{failure} {error}".strip())
        raise
    error = "" if result is not None else failure or f"It is not on host {move.target.name}."
    recorded(record_settled, move, result, error)
    return result
