"""Virtual networks as VLANs on a host's Open vSwitch bridge: `vlan://ovsbr0`.

libvirt plugs a card in with its VLAN tag, so there is nothing to make on a host for a network to exist;
what must be there is the bridge, and a port in it which leads to the other hosts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from drivers import ssh as ssh_module
from drivers.contract import Access, NetworkCapabilities
from drivers.network import switch
from drivers.ssh import Ssh
from vdc.errors import DriverFailure, Invalid
from vdc.model import Attachment, HostRef, NicSpec, VnetSpec

TRUST_S = 30.0
"""How long a bridge that was seen with its uplink is taken to be so."""
_VSCTL = ("ovs-vsctl", "--timeout=10")


class VlanNetwork:
    """The Open vSwitch bridge of one host."""

    capabilities = NetworkCapabilities(isolated=True, vlan=True)

    def __init__(self, bridge: str, ssh: Ssh) -> None:
        self._bridge = bridge
        self._ssh = ssh
        self._seen_at = -TRUST_S

    def ensure_network(self, vnet: VnetSpec) -> bool:
        _tag(vnet)
        if time.monotonic() - self._seen_at < TRUST_S:
            return False
        if all(switch.is_ours(port) for port in self._ports()):
            raise DriverFailure(
                f"{self._ssh.name}: Open vSwitch bridge {self._bridge} has no uplink; machines of "
                f"{vnet.name} on this host would reach no other host. Add one: "
                f"ovs-vsctl add-port {self._bridge} DEVICE.",
                host=self._ssh.name,
            )
        self._seen_at = time.monotonic()
        return False

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        # A switch in user space does not complete checksums and segments that a guest leaves to the card.
        return Attachment(
            device=nic.device,
            mac=nic.mac,
            bridge=self._bridge,
            openvswitch=True,
            vlan_id=_tag(vnet),
            offloads=False,
        )

    def read_ports(self) -> list[str]:
        return [port for port in self._ports() if switch.is_ours(port)]

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        if not devices:
            return False
        # One transaction and one process: it prints the names of those that are there, and removes them.
        argv = [*_VSCTL]
        for port in map(switch.ours, devices):
            argv += ["--", "--if-exists", "get", "Port", port, "name"]
            argv += ["--", "--if-exists", "del-port", self._bridge, port]
        return bool(self._ssh.run(argv, what=f"removing ports from bridge {self._bridge}").strip())

    def _ports(self) -> list[str]:
        argv = [*_VSCTL, "list-ports", self._bridge]
        return (
            self._ssh.run(argv, what=f"listing the ports of Open vSwitch bridge {self._bridge}")
            .decode()
            .split()
        )


def _tag(vnet: VnetSpec) -> int:
    if vnet.vlan_id is None or not 1 <= vnet.vlan_id <= 4094:
        raise Invalid(f"Network {vnet.name} needs a VLAN id from 1 to 4094, not {vnet.vlan_id}.")
    return vnet.vlan_id


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where `uri` names no bridge."""
    switch.bridge_of(uri)
    return VlanNetwork.capabilities


def network(uri: str, host: HostRef, access: Access) -> VlanNetwork:
    return VlanNetwork(switch.bridge_of(uri), ssh_module.connection(host, access))
