"""Switching one machine on, off, or over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from prefect import task

from drivers import registry
from drivers.contract import Hypervisor
from tasks.batches import recorded
from tasks.environment import environment
from tasks.machines import Call, Step, ensure_defined, ensure_networks, ensure_started, run_steps
from tasks.retrying import retrying
from vdc.claims.batch import Machine
from vdc.claims.power import mark_asked, tell
from vdc.errors import DriverFailure, Transient
from vdc.model import VmSpec
from vdc.operations import Fence
from vdc.requests import PowerRequest

START: Mapping[str, Step] = {
    "ensure network": ensure_networks,
    "define": ensure_defined,
    "start": ensure_started,
}
"""Its disk is not made anew: a machine whose disk cannot be found does not start."""
RESUME: Mapping[str, Step] = {"ensure network": ensure_networks, "resume": ensure_started}


def _hypervisor(spec: VmSpec) -> Hypervisor:
    return registry.hypervisor(spec.host, environment().access)


def _pause(spec: VmSpec) -> Iterator[Call]:
    yield partial(_hypervisor(spec).ensure_paused, spec.domain)


def _suspend(spec: VmSpec) -> Iterator[Call]:
    timeout_s = environment().settings.suspend_timeout_s
    yield partial(_hypervisor(spec).ensure_suspended, spec.domain, timeout_s=timeout_s)


def _stop(machine: Machine, request: PowerRequest) -> dict[str, Step]:
    """The guest is asked, unless it is to be hard. The fence is asked again before the plug is pulled."""
    heard: list[bool] = []

    def shut_down(spec: VmSpec) -> Iterator[Call]:
        if not request.hard:
            ask = partial(_hypervisor(spec).ensure_shut_down, spec.domain, timeout_s=request.timeout_s)
            yield lambda: heard.append(ask())

    def power_off(spec: VmSpec) -> Iterator[Call]:
        if not any(heard):
            yield partial(_hypervisor(spec).ensure_stopped, spec.domain)
            if heard:
                how = f"did not shut down within {request.timeout_s:g} s: powered off"
                yield partial(recorded, tell, machine.claim, {"how": how})

    return {"shut down": shut_down, "power off": power_off}


def _reboot(machine: Machine, request: PowerRequest) -> dict[str, Step]:
    """Asked once: what cannot be told afterwards, whether it happened, is never done a second time."""
    heard: list[bool] = []

    def ask(spec: VmSpec) -> Iterator[Call]:
        hypervisor = _hypervisor(spec)
        # Still without consequences: whatever fails here may be tried again.
        yield partial(hypervisor.read_domain, spec.domain)
        yield partial(_mark, machine)
        if request.verb == "reboot" and not request.hard:
            ask = partial(hypervisor.reboot, spec.domain, timeout_s=request.timeout_s)
            yield lambda: heard.append(bool(_once(ask)))

    def reset(spec: VmSpec) -> Iterator[Call]:
        if not any(heard):
            yield partial(_once, partial(_hypervisor(spec).reset, spec.domain))
            if heard:
                how = f"did not reboot within {request.timeout_s:g} s: reset"
                yield partial(recorded, tell, machine.claim, {"how": how})

    return {"reboot": ask, "reset": reset}


def _mark(machine: Machine) -> None:
    if not recorded(mark_asked, machine.claim):
        raise DriverFailure(
            "it was asked before, by a process that died, and whether it did it cannot be told. "
            "Ask again if it did not"
        )


def _once(ask: Callable[[], object]) -> object:
    """A passing failure is final here: it may have happened."""
    try:
        return ask()
    except Transient as error:
        raise DriverFailure(f"whether it did it cannot be told: {error} Ask again if it did not") from error


def steps_of(machine: Machine, request: PowerRequest) -> Mapping[str, Step]:
    """What a verb takes, in order."""
    if request.verb == "stop":
        return _stop(machine, request)
    if request.verb in ("reboot", "reset"):
        return _reboot(machine, request)
    return {"start": START, "resume": RESUME, "pause": {"pause": _pause}, "suspend": {"suspend": _suspend}}[
        request.verb
    ]


@task(name="power-vm", task_run_name="{request.verb} {machine.spec.name}", **retrying())
def power_vm(machine: Machine, fence: Fence, request: PowerRequest) -> datetime:
    """Bring a machine to what the verb says; the instant at which that was seen to be done."""
    # Whatever it was deployed as, it is to run where it is started.
    running = replace(machine, spec=replace(machine.spec, start="running"))
    return run_steps(steps_of(running, request), running, fence)
