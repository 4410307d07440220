"""The floor in a flow: machines that were claimed like any others, made and removed by the bare loop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import processes, registry
from drivers.hypervisor import domain_xml
from drivers.hypervisor.bare import BareMachine, connected, make_all, remove_all
from drivers.seed import build_seed
from tasks import timing
from tasks.domains import domain_spec
from tasks.environment import environment
from tasks.machines import ensure_networks, remove_ports
from tasks.seeds import context_of
from vdc.claims.batch import Machine
from vdc.model import VmSpec

DEADLINE_PER_MACHINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Interval:
    """From when to when (seconds since 1970), and the CPU seconds of this process meanwhile."""

    begun: float
    ended: float
    client_cpu_s: float


def bare_machine(spec: VmSpec) -> BareMachine:
    """A machine as the bare loop needs it: the same disk, seed, card and description as ours."""
    domain, disk = domain_spec(spec), spec.disks[0]
    assert domain.seed_path is not None
    assert disk.image is not None
    store = registry.datastore(disk.datastore_uri, spec.host, environment().access)
    return BareMachine(
        name=domain.name,
        xml=domain_xml.build(domain),
        disk=domain.disks[0].path,
        size_mib=disk.size_mib,
        image=store.path(disk.image.file),
        image_format=disk.image.format,
        seed=domain.seed_path,
        seed_content=build_seed(context_of(spec), spec.vm_id, spec.nics),
        plug=list(ensure_networks(spec)),
        unplug=list(remove_ports(spec)),
        paused=spec.start == "paused",
    )


@task(name="bare-loop", task_run_name="bare loop", cache_policy=NO_CACHE, persist_result=False)
def bare_loop(machines: Sequence[Machine]) -> tuple[Interval, Interval]:
    """Make all machines and remove them, with our own concurrency on each host.

    Returns what making and removing took; the steps go to who listens (tasks/timing.py). Raises what the
    loop's first failure was: what it has made then is still there.
    """
    settings, access = environment().settings, environment().access
    specs = {machine.spec.domain: machine.spec for machine in machines}
    hosts = list({spec.host.name: spec.host for spec in specs.values()}.values())
    deadline_s = DEADLINE_PER_MACHINE_S * len(specs)

    def listener(name: str, step: str, begun: float, ended: float) -> None:
        timing.report(step, begun, specs[name], ended=ended)

    with connected(hosts, access, listener) as connections:
        batch = [(connections[spec.host.name], bare_machine(spec)) for spec in specs.values()]
        before, begun = processes.cpu_s(os.getpid()), timing.now()
        make_all(batch, settings.per_host_concurrency, deadline_s)
        middle, made = processes.cpu_s(os.getpid()), timing.now()
        remove_all(batch, settings.per_host_concurrency, deadline_s)
        after, removed = processes.cpu_s(os.getpid()), timing.now()
    return Interval(begun, made, middle - before), Interval(made, removed, after - middle)
