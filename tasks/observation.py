"""Looking at hosts and datastores. A host that does not answer is an observation too, never an absence."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import registry
from tasks.environment import environment
from vdc.errors import VdcError
from vdc.model import HostRef, NicSpec
from vdc.reconciliation import HostSeen, StoreSeen

log = logging.getLogger(__name__)


@task(name="observe-host", task_run_name="observe {host.name}", cache_policy=NO_CACHE, persist_result=False)
def observe_host(host: HostRef, networks: list[str], nics: Sequence[NicSpec] = ()) -> HostSeen:
    """Domains, ports and load of one host; its error where it does not answer.

    `nics`: cards that should be there, with their rules.
    """
    access = environment().access
    try:
        hypervisor = registry.hypervisor(host, access)
        domains = tuple(hypervisor.read_domains())
        load_1m = hypervisor.read_facts().load_1m
        ports = [p for uri in networks for p in registry.network(uri, host, access).read_ports()]
        unguarded = [
            device
            for uri in {nic.vnet.uri for nic in nics}
            for device in registry.network(uri, host, access).read_unguarded(
                [nic for nic in nics if nic.vnet.uri == uri]
            )
        ]
    except VdcError as error:
        return HostSeen(host, error=str(error))
    return HostSeen(host, "", domains, tuple(sorted(set(ports))), load_1m, frozenset(unguarded))


@task(name="observe-datastore", task_run_name="observe {uri}", cache_policy=NO_CACHE, persist_result=False)
def observe_datastore(uri: str, hosts: list[HostRef], *, part: bool) -> StoreSeen | None:
    """What the first host that answers sees; None where none does. `part`: the (only) host has its own."""
    for host in hosts:
        try:
            store = registry.datastore(uri, host, environment().access)
            files, use = frozenset(store.read_files()), store.read_use()
        except VdcError as error:
            log.warning("Datastore %s cannot be read on host %s: %s", uri, host.name, error)
        else:
            return StoreSeen(uri, host.name if part else "", files, use, tuple(h.name for h in hosts))
    return None
