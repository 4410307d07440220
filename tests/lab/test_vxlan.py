"""Networks in tunnels between the hosts, frame by frame; no guest is started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drivers.network.vxlan import bridge_of
from tests.lab.wire import BROADCAST, Card, Ports, arp, udp
from vdc.errors import DriverFailure
from vdc.model import Rule, VnetSpec

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

URI, ANOTHER_SITE = "vxlan://eth0", "vxlan://eth0?vni_base=8000"
FIRST, SECOND = ("02:00:0a:05:00:01", "10.5.0.1"), ("02:00:0a:05:00:02", "10.5.0.2")
PEERS = {"h1": "10.77.0.12", "h2": "10.77.0.11"}


def _tell(ports: Ports, uri: str) -> None:
    for host, peer in PEERS.items():
        ports.network(host, uri).ensure_peers([peer])


def test_who_has_the_same_addresses_and_macs_is_kept_apart_across_hosts(ports: Ports) -> None:
    """Two tenants of a site, and a third one of another site on the same wire, with the same VLAN id."""
    red = VnetSpec("red", "red", URI, 310, "10.5.0.0/24")
    vnets = {v.name: v for v in (red, replace(red, vnet_id="green", name="green", vlan_id=311))}
    vnets["blue"] = replace(red, vnet_id="blue", name="blue", uri=ANOTHER_SITE)
    for uri in (URI, ANOTHER_SITE):
        _tell(ports, uri)
    here: dict[str, Card] = {}
    there: dict[str, Card] = {}
    for name, vnet in vnets.items():
        here[name], _ = ports.plug("h1", vnet, *FIRST)
        there[name], _ = ports.plug("h2", vnet, *SECOND)

    sent: dict[str, list[bytes]] = {}
    for name, card in here.items():
        everybody = udp(FIRST, (BROADCAST, "10.5.0.255"), f"all of {name}")
        full = udp(FIRST, SECOND, name.ljust(1500 - 28, "."))
        assert len(full) == 1514
        sent[name] = [arp(FIRST, f"10.5.0.{len(name)}"), everybody, full, udp(FIRST, SECOND, f"to {name}")]
        forged = [
            udp((FIRST[0], "10.5.0.77"), SECOND, "a"),
            udp(("02:66:66:66:66:66", FIRST[1]), SECOND, "m"),
        ]
        for frame in (*forged, udp(FIRST, SECOND, "tagged", 311), *sent[name]):
            card.send(frame)
    for name, card in there.items():
        assert card.until(sent[name][-1]) == sent[name][:-1]
        card.send(udp(SECOND, FIRST, f"back to {name}"))
    for name, card in here.items():
        assert card.until(udp(SECOND, FIRST, f"back to {name}")) == []


def test_a_tunnel_that_was_lost_is_seen_and_made_anew_with_its_peers(ports: Ports) -> None:
    vnet = VnetSpec("lost", "lost", URI, 312, "10.5.0.0/24")
    _tell(ports, URI)
    one, _ = ports.plug("h1", vnet, *FIRST)
    far, _ = ports.plug("h2", vnet, *SECOND, rules=(Rule("in", "udp"), Rule("out", "any")))
    network, nic = ports.network("h1", URI), ports.nics["h1", "lost", FIRST[1]]
    ports.run("h1", "sh", "-c", "ip link delete dev $(ip -o link show type vxlan | grep -o 'vx[^-]*-312')")
    assert network.read_unguarded([nic]) == [nic.device]
    network.ensure_peers([])
    assert network.ensure_peers([PEERS["h1"]]), "the others are told, and it is kept"
    assert network.ensure_network(vnet)
    assert network.read_unguarded([nic]) == []
    assert network.read_peers_amiss([PEERS["h1"]]) == []
    ask, last = arp(FIRST, SECOND[1]), udp(FIRST, SECOND, "last")
    one.send(ask)
    one.send(last)
    assert far.until(last) == [ask], "a card in a security group gets what its rules let in"
    ports.network("h1", URI).ensure_peers([])
    one.send(udp(FIRST, SECOND, "nobody is told"))
    ports.network("h1", URI).ensure_peers([PEERS["h1"]])
    one.send(last)
    assert far.until(last) == []


def test_a_device_that_carries_no_full_frame_in_a_tunnel_is_refused(ports: Ports) -> None:
    small = VnetSpec("small", "small", "vxlan://small", 313, "10.5.0.0/24")
    ports.run("h1", "sh", "-c", "ip link add small type bridge; ip address add 10.77.0.11/32 dev small")
    try:
        for call in (
            lambda: ports.network("h1", small.uri).ensure_network(small),
            lambda: ports.network("h1", small.uri).ensure_peers([PEERS["h1"]]),
        ):
            with pytest.raises(DriverFailure, match=r"h1: .* MTU of 1500.*: ip link set dev small mtu 1550"):
                call()
        ports.run("h1", "ip", "link", "set", "dev", "small", "mtu", "1550")
        assert ports.network("h1", small.uri).ensure_network(small)
    finally:
        ports.run("h1", "ip", "link", "delete", "dev", "small")
        ports.run("h1", "ovs-vsctl", "--if-exists", "del-br", bridge_of(small.uri))
