"""Telling hosts where the others are, of uplinks whose networks are in tunnels between them."""

from __future__ import annotations

import logging
from collections.abc import Collection

from prefect import task
from prefect.utilities.annotations import quote

from drivers import registry
from tasks.batches import read
from tasks.environment import environment
from tasks.retrying import retrying
from vdc.errors import VdcError
from vdc.peers import Peers, read_peers
from vdc.reconciliation import Finding, World

log = logging.getLogger(__name__)


@task(
    name="tell-peers",
    task_run_name="tell {peers.host.name} of the other hosts",
    **retrying() | {"retries": 1},
)
def _tell(peers: Peers) -> None:
    registry.network(peers.uri, peers.host, environment().access).ensure_peers(peers.addresses)


@task(
    name="look-at-peers",
    task_run_name="look at the peers of {peers.host.name}",
    **retrying() | {"retries": 1},
)
def _look(peers: Peers) -> list[str]:
    network = registry.network(peers.uri, peers.host, environment().access)
    return network.read_peers_amiss(peers.addresses)


def _needs(uri: str) -> bool:
    return registry.network_capabilities(uri).peers


def tell_peers(uris: Collection[str]) -> None:
    """Tell every host with one of these uplinks. One that cannot be told is named in the log."""
    needed = {uri for uri in uris if _needs(uri)}
    if not needed:
        return
    telling = [(peers, _tell.submit(quote(peers))) for peers in read(read_peers) if peers.uri in needed]
    for peers, future in telling:
        try:
            future.result()
        except VdcError as error:
            log.warning(
                "Host %s does not know all other hosts on %s: %s `vdc reconcile` tells it.",
                peers.host.name,
                peers.uri,
                error,
            )


def converge_peers(world: World) -> list[Finding]:
    """Compare what the hosts that answer know with what they should, and tell those that know otherwise."""
    there = {seen.host.name for seen in world.hosts if not seen.error}
    known = [peers for peers in read(read_peers) if peers.host.name in there and _needs(peers.uri)]
    looks = [(peers, _look.submit(quote(peers))) for peers in known]
    findings = []
    for peers, future in looks:
        try:
            if not (amiss := future.result()):
                continue
            what = f"tunnels lead elsewhere than to all other hosts ({', '.join(amiss)})"
            _tell(quote(peers))
            action = "restored"
        except VdcError as error:
            what, action = "tunnels do not lead to all other hosts", f"not told yet: {error}"
        findings.append(Finding(what, f"host/{peers.host.name}", peers.host.name, action))
    return findings
