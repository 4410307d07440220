"""Making and removing a machine in a cloud. The token is committed before the call that it protects.

Whoever comes after a crash looks for an instance by the machine's tag; finds none; and asks again with the
token of the attempt of which nobody knows what came: the cloud then answers with the instance of that
token, or starts it now. Either way there is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from drivers import registry
from drivers.cloud.user_data import user_data
from drivers.contract import Cloud
from tasks.batches import recorded
from tasks.environment import environment
from tasks.seeds import context_of
from vdc.claims.batch import Machine
from vdc.claims.burst import Attempt, close_attempt, open_attempt, record_launched, tried
from vdc.errors import DriverFailure, NoCapacity, TimedOut
from vdc.model import CloudPlace, InstanceSeen, LaunchSpec, VmSpec
from vdc.operations import Fence

BOOT_TIMEOUT_S = 300.0
POLL_S = (0.1, 2.0)
"""First and longest pause between two looks at an instance that boots."""

Step = Callable[[VmSpec], Iterator[Callable[[], object]]]


def provision(machine: Machine, fence: Fence) -> Mapping[str, Step]:
    """The steps that make it, for tasks.machines.run_steps."""
    return {"launch": lambda _: iter([partial(_launch, machine, fence)])}


def teardown(machine: Machine, fence: Fence) -> Mapping[str, Step]:
    """The steps that remove it."""
    return {"terminate instance": lambda _: iter([partial(_terminate, machine, fence)])}


def _place(machine: Machine) -> tuple[CloudPlace, Cloud]:
    place = machine.spec.cloud
    assert place is not None, "a machine on a host of ours"
    return place, registry.cloud(place.uri, environment().access)


def _launch(machine: Machine, fence: Fence) -> None:
    place, cloud = _place(machine)
    vm_id, claim = machine.spec.vm_id, machine.claim
    found = cloud.find_instances(vm_id)
    seen = found[0] if found else None
    while True:
        if seen is None:
            attempt = recorded(open_attempt, claim, vm_id, place.offers)
            if attempt is None:
                raise DriverFailure(
                    f"{place.name} has no capacity: {'; '.join(recorded(tried, vm_id))}", host=place.name
                )
            fence.check(claim)
            try:
                seen = cloud.ensure_launched(_spec(machine, place, attempt))
            except NoCapacity as error:
                recorded(close_attempt, claim, attempt.token, str(error))
                continue
        if seen.state != "gone":
            recorded(record_launched, claim, place, vm_id, seen)
            seen = _wait_until_running(cloud, seen, machine, fence)
        if seen.state == "running":
            recorded(record_launched, claim, place, vm_id, seen)
            return
        # Launched and ended: some failures of a cloud show only then. The next offer may do.
        recorded(close_attempt, claim, seen.token, f"instance {seen.instance_id} ended while it booted")
        seen = None


def _spec(machine: Machine, place: CloudPlace, attempt: Attempt) -> LaunchSpec:
    spec = machine.spec
    return LaunchSpec(
        token=attempt.token,
        ami=place.ami,
        instance_type=attempt.offer.instance_type,
        zone=attempt.offer.zone,
        vm_id=spec.vm_id,
        vm_name=spec.name,
        tenant=spec.tenant,
        site=spec.site,
        user_data=user_data(context_of(spec)),
    )


def _wait_until_running(cloud: Cloud, seen: InstanceSeen, machine: Machine, fence: Fence) -> InstanceSeen:
    """The instance when it runs, or is gone. Raises TimedOut where it does neither."""
    deadline, (pause, longest) = time.monotonic() + BOOT_TIMEOUT_S, POLL_S
    while seen.state not in ("running", "gone"):
        if time.monotonic() > deadline:
            raise TimedOut(f"Instance {seen.instance_id} is {seen.state} after {BOOT_TIMEOUT_S:g} s.")
        time.sleep(pause)
        pause = min(2 * pause, longest)
        fence.check(machine.claim)
        # A cloud may not know yet what it has just launched: it is as it was then.
        seen = cloud.read_instance(seen.instance_id) or seen
    return seen


def _terminate(machine: Machine, fence: Fence) -> None:
    _, cloud = _place(machine)
    for seen in cloud.find_instances(machine.spec.vm_id):
        fence.check(machine.claim)
        cloud.ensure_terminated(seen.instance_id)
