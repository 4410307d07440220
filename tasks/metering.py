"""Reading counters from hosts. One that does not answer is passed over; its next answer catches up."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import registry
from tasks.environment import environment
from vdc.errors import VdcError
from vdc.metering import HostCounters
from vdc.model import HostRef
from vdc.schema import utc_now


@task(name="sample-host", task_run_name="sample {host.name}", cache_policy=NO_CACHE, persist_result=False)
def sample_host(host: HostRef) -> HostCounters:
    """Counters of what runs on one host; its error where it does not answer."""
    at = utc_now()
    try:
        counters = registry.hypervisor(host, environment().access).read_counters()
    except VdcError as error:
        return HostCounters(host.name, at, error=str(error))
    return HostCounters(host.name, at, counters=tuple(counters))


def sample(hosts: Sequence[HostRef]) -> list[HostCounters]:
    """Ask every host, all at once."""
    return [future.result() for future in [sample_host.submit(host) for host in hosts]]
