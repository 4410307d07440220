"""What the drivers in use can do, read before a claim: a claim asks nobody."""

from __future__ import annotations

from sqlalchemy import select

from drivers import registry
from tasks.environment import environment
from vdc.inventory import read_session
from vdc.model import Abilities
from vdc.schema import Datastore, Host, Vnet


def abilities() -> Abilities:
    """By URI of host, datastore and network. No host is asked. Needs no Prefect, as plans read it too."""
    with read_session(environment().url) as session:
        hosts = session.scalars(select(Host.uri)).all()
        datastores = session.scalars(select(Datastore.uri)).all()
        networks = set(session.scalars(select(Vnet.uri)))
    of_hosts = {uri: registry.hypervisor_capabilities(uri) for uri in hosts}
    of_datastores = {uri: registry.datastore_capabilities(uri) for uri in datastores}
    return Abilities(
        migrating=frozenset(uri for uri, can in of_hosts.items() if can.live_migration),
        snapshotting=frozenset(uri for uri, can in of_hosts.items() if can.snapshots),
        shared=frozenset(uri for uri, can in of_datastores.items() if can.shared),
        movable=frozenset(uri for uri, can in of_datastores.items() if can.movable),
        filtering=frozenset(uri for uri in networks if registry.network_capabilities(uri).filtering),
        snapshot_disks=frozenset(uri for uri, can in of_datastores.items() if can.snapshots),
    )
