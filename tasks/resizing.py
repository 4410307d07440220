"""Changing the size of one machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Hypervisor
from tasks import telling
from tasks.batches import recorded
from tasks.domains import domain_spec
from tasks.environment import environment
from tasks.machines import Call, run_steps
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.claims.resize import Resize, resized, size_of
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.model import ShapeSeen, Size, VmSpec
from vdc.operations import Fence
from vdc.records import record_resized
from vdc.schema import utc_now

GUEST_S = 30.0
"""How long a guest may take to give memory back, take it, or grow its root, before that is left for later."""


def _hypervisor(spec: VmSpec) -> Hypervisor:
    return registry.hypervisor(spec.host, environment().access)


@dataclass(frozen=True, slots=True)
class Resized:
    """What a machine has, and since when; `root` is why its root file system did not grow with its disk."""

    has: Size
    at: datetime
    root: str


@task(name="resize-vm", task_run_name="resize {asked.spec.name}", **retrying())
def resize_vm(asked: Resize, fence: Fence) -> Resized:
    """Bring the machine to what it is to have, as far as it goes now.

    Its description on the host says the same, so that it has it again wherever it is started.
    """
    seen: list[ShapeSeen] = []
    root: list[str] = []
    wanted = resized(asked.spec, asked.wanted)

    def grow_disk(spec: VmSpec) -> Iterator[Call]:
        if asked.wanted.disk_mib > spec.disks[0].size_mib:
            yield partial(_hypervisor(spec).ensure_disk_grown, domain_spec(spec), 0, asked.wanted.disk_mib)

    def grow_root(spec: VmSpec) -> Iterator[Call]:
        if asked.wanted.disk_mib > spec.disks[0].size_mib:
            yield lambda: root.append(_grow_root(spec))

    def resize(spec: VmSpec) -> Iterator[Call]:
        hypervisor = _hypervisor(spec)
        yield lambda: seen.append(hypervisor.ensure_shape(domain_spec(wanted), timeout_s=GUEST_S))

    def define(spec: VmSpec) -> Iterator[Call]:
        yield partial(_hypervisor(spec).ensure_defined, domain_spec(resized(spec, _has(asked, seen[0]))))

    steps = {"grow disk": grow_disk, "grow root": grow_root, "resize": resize, "define": define}
    at = run_steps(steps, Machine(asked.claim, asked.spec), fence)
    return Resized(_has(asked, seen[0]), at, "".join(root))


def _grow_root(spec: VmSpec) -> str:
    """No reason to fail: the guest does it at its next boot. Returns why it has not done it now."""
    try:
        return _hypervisor(spec).grow_root(spec.domain, timeout_s=GUEST_S)
    except VdcError as error:
        return str(error).rstrip(".")


def _has(asked: Resize, seen: ShapeSeen) -> Size:
    """What it has once its disk was grown. One that is off has what it is described with."""
    if not seen.running:
        return asked.wanted
    has = replace(size_of(asked.spec), vcpu=seen.vcpu, disk_mib=asked.wanted.disk_mib)
    # A balloon may stand a page beside: what counts is whether it did what it was told.
    done = seen.memory_mib == asked.wanted.memory_mib
    return replace(has, memory_mib=asked.wanted.memory_mib) if done else has


def resize_and_record(asked: Resize, fence: Fence) -> None:
    """Change the machine's size and write down what it has then, also after a failure.

    Raises OperationFailed where it may not have all that it was to have.
    """
    try:
        done = resize_vm(asked, fence)
    except Superseded:
        raise
    except VdcError as error:
        seen = _look(asked.spec)
        recorded(record_resized, asked, seen, utc_now(), str(error))
        what = (
            f"It has {seen.vcpu} vCPU, {seen.memory_mib} MiB of memory, {seen.disk_mib} MiB of disk now."
            if seen
            else "It was not seen what it has now: `vdc reconcile` goes on."
        )
        failure = f"{asked.spec.name} was not resized: {error} {what}"
        telling.resize_result(asked, seen, failure)
        raise OperationFailed(failure, asked.claim.operation_id) from error
    recorded(record_resized, asked, done.has, done.at, root=done.root)
    telling.resize_result(asked, done.has, root=done.root)


def _look(spec: VmSpec) -> Size | None:
    """What the machine has, if its host says so now."""
    try:
        seen = _hypervisor(spec).read_shape(domain_spec(spec))
    except VdcError:
        return None
    return Size(seen.vcpu, seen.memory_mib, seen.disks_mib[0])
