"""Where the other hosts are: what an uplink whose networks are in tunnels is told."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.claims.deploy import host_ref
from vdc.model import HostRef
from vdc.schema import Host


@dataclass(frozen=True, slots=True)
class Peers:
    """The addresses of all other hosts with the uplink `uri`, as one of them is to know them."""

    host: HostRef
    uri: str
    addresses: tuple[str, ...]


def read_peers(session: Session) -> list[Peers]:
    """Of each host and each of its uplinks, whether its networks need it or not.

    Also of hosts that take no new machines: those that they have still talk.
    """
    hosts = [(host_ref(h), tuple(h.networks)) for h in session.scalars(select(Host).order_by(Host.name))]
    return [
        Peers(
            host,
            uri,
            tuple(
                sorted(other.peer_address for other, its in hosts if other.name != host.name and uri in its)
            ),
        )
        for host, networks in hosts
        for uri in networks
    ]
