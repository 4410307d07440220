"""What the URI of networks in tunnels says, and which of them would be one on the wire."""

from __future__ import annotations

import pytest

from drivers.network.openflow import present, replacement, tunnel_present, tunnel_replacement
from vdc.errors import Invalid
from vdc.model import HostRef, NicSpec, VnetSpec
from vdc.vxlan import MAX_VNI_BASE, Underlay, underlay, wire


def test_a_uri_says_device_base_and_port() -> None:
    assert underlay("vxlan://eth1") == Underlay("eth1", 0, 4789)
    assert underlay("vxlan://bond0.7?vni_base=8000&port=8472") == Underlay("bond0.7", 8000, 8472)
    assert underlay(f"vxlan://eth1?vni_base={MAX_VNI_BASE}").vni_base + 4094 == 2**24 - 1


@pytest.mark.parametrize(
    "uri",
    [
        "vxlan://",
        "vxlan://eth1/x",
        "vxlan://a-name-of-16-bytes",
        "vxlan://eth1;reboot",
        f"vxlan://eth1?vni_base={MAX_VNI_BASE + 1}",
        "vxlan://eth1?vni_base=",
        "vxlan://eth1?vni_base=0x10",
        "vxlan://eth1?vni_base=\u0664",
        "vxlan://eth1?vni_base=1&vni_base=2",
        "vxlan://eth1?port=0",
        "vxlan://eth1?port=65536",
        "vxlan://eth1?vni=5",
    ],
)
def test_what_no_tunnel_can_be_is_refused_with_what_it_should_be(uri: str) -> None:
    with pytest.raises(Invalid, match=r"should|takes"):
        underlay(uri)


def test_networks_with_one_vni_on_one_port_are_one_on_the_wire() -> None:
    same = wire("vxlan://eth1?vni_base=100", 50)
    assert same == wire("vxlan://eth1", 150) == wire("vxlan://eth2?port=4789", 150)
    others = [("vxlan://eth1", 50), ("vxlan://eth1?port=8472", 150), ("vlan://eth1", 150)]
    assert same not in [wire(*other) for other in others]
    assert wire("vlan://ovsbr0?qinq=802.1q", 7) == wire("vlan://ovsbr0", 7)


def test_other_hosts_reach_a_host_where_it_says_or_where_we_do() -> None:
    uri = "qemu+ssh://root@192.0.2.7:22/system"
    assert HostRef("h", uri).peer_address == "192.0.2.7"
    assert HostRef("h", uri, migration_address="10.0.0.7").peer_address == "10.0.0.7"
    assert HostRef("h", uri, migration_address="tcp://10.0.0.8").peer_address == "10.0.0.8"


def test_flows_of_a_tunnel_are_neither_a_cards_nor_a_vlans() -> None:
    """All bridges of a host share the table of connections: its zones are by what register 0 has."""
    vlan = VnetSpec("v", "v", "vlan://ovsbr0", 100, "10.0.0.0/24")
    tunnel = VnetSpec("t", "t", "vxlan://eth1", 100, "10.0.0.0/24")
    nics = [NicSpec(0, vnet, "vd0000000064-0", "02:00:00:00:00:01", "10.0.0.1") for vnet in (vlan, tunnel)]
    on_vlan, in_tunnel = (replacement([nic]) for nic in nics)
    assert "load:100->" in on_vlan
    assert "load:100->" not in in_tunnel
    flows = tunnel_replacement("vx89abcdef-100", tunnel).splitlines()
    cookie = tunnel_present("vx89abcdef-100", tunnel).split()[1]
    assert sum(f"cookie={cookie}," in flow for flow in flows) == 4
    of_cards = [line.split()[1] for nic in nics for line in present(nic)]
    assert int(cookie, 16) >> 20 not in {int(card, 16) >> 20 for card in of_cards}
