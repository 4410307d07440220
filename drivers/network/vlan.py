"""Virtual networks as VLANs on a host's Open vSwitch bridge: `vlan://ovsbr0`.

Machines are on a bridge of ours, `vdc-ovsbr0`, which is joined to that one: what no flow of ours lets
through it drops, also while nobody has told it anything (`fail_mode=secure`). The operator's bridge, which
may carry the host's own address, forwards as it did::

    guest -- vd0123456789-0 (tag 100) -- vdc-ovsbr0 == ovsbr0 -- the other hosts
                                           flows      as it is

`vlan://ovsbr0?qinq=802.1ad` (or `802.1q`): guests may send VLAN tags of their own, inside of the network's.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

from drivers import ssh as ssh_module
from drivers.contract import Access, NetworkCapabilities
from drivers.network import openflow, ovs, switch
from drivers.ssh import Ssh
from vdc.errors import DriverFailure
from vdc.model import QINQ, Attachment, HostRef, NicSpec, VnetSpec

TRUST_S = 30.0
"""How long a bridge that was seen with its uplink is taken to be so."""
NO_UPLINK = "no uplink"

_ENSURE = """
set -eu
bridge=$1 inner=$2 inside=$3 outside=$4 tags=$5
ports=$(ovs-vsctl --timeout=10 list-ports "$bridge")
others=$(printf '%s\\n' "$ports" | grep -vx -e '' -e "$outside" -e 'vd[0-9a-f]\\{10\\}-[0-9]') || {
  echo "no uplink"; exit 0
}
before=$(ovs-vsctl --timeout=10 list-br)
kind=$(ovs-vsctl --timeout=10 get Bridge "$bridge" datapath_type)
ovs-vsctl --timeout=10 -- --may-exist add-br "$inner" \
  -- set Bridge "$inner" fail_mode=secure datapath_type="$kind" \
  -- --may-exist add-port "$inner" "$inside" -- set Interface "$inside" type=patch options:peer="$outside" \
  -- --may-exist add-port "$bridge" "$outside" -- set Interface "$outside" type=patch options:peer="$inside"
ovs-ofctl --bundle add-flows "$inner" -
limit=$(ovs-vsctl --timeout=10 --if-exists get Open_vSwitch . other_config:vlan-limit | tr -d '"')
# 0: as many as it can.
if [ "$tags" = 2 ] && [ "${limit:-1}" = 1 ]; then
  ovs-vsctl --timeout=10 set Open_vSwitch . other_config:vlan-limit=2
  before=''
fi
printf '%s\\n' "$before" | grep -qx "$inner" || echo made
"""


class VlanNetwork:
    """The Open vSwitch bridge of one host."""

    capabilities = NetworkCapabilities(isolated=True, vlan=True, filtering=True)

    def __init__(self, bridge: str, ssh: Ssh, tags: int = 1) -> None:
        """`tags`: how many VLAN tags a frame on the uplink may have."""
        self._bridge = bridge
        self._tags = tags
        self._ssh = ssh
        self._seen_at = -TRUST_S
        digest = hashlib.sha256(bridge.encode()).hexdigest()
        self._inner = f"vdc-{bridge}" if len(bridge) <= 11 else f"vdc-{digest[:11]}"
        self._inside, self._outside = f"up-{digest[:8]}", f"vdc-{digest[:8]}"

    def ensure_network(self, vnet: VnetSpec) -> bool:
        ovs.tag(vnet)
        if time.monotonic() - self._seen_at < TRUST_S:
            return False
        told = ovs.run(
            self._ssh,
            _ENSURE,
            [self._bridge, self._inner, self._inside, self._outside, str(self._tags)],
            f"looking for the uplink of Open vSwitch bridge {self._bridge}",
            stdin=self._uplink,
        )
        if NO_UPLINK in told:
            raise DriverFailure(
                f"{self._ssh.name}: Open vSwitch bridge {self._bridge} has no uplink; machines of "
                f"{vnet.name} on this host would reach no other host. Add one: "
                f"ovs-vsctl add-port {self._bridge} DEVICE.",
                host=self._ssh.name,
            )
        self._seen_at = time.monotonic()
        return "made" in told

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        ovs.tag(vnet)
        # A switch in user space does not complete checksums and segments that a guest leaves to the card.
        return Attachment(device=nic.device, mac=nic.mac, offloads=False)

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        if not nics:
            return False
        return ovs.make_ports(self._ssh, self._inner, nics, like=self._bridge, also=self._uplink)

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        if not nics:
            return []
        return ovs.unguarded(nics, ovs.read_seen(self._ssh, self._inner))

    def read_ports(self) -> list[str]:
        return ovs.read_ports(self._ssh, self._inner, self._bridge)

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        return bool(devices) and ovs.remove_ports(self._ssh, self._inner, devices)

    def read_peers_amiss(self, peers: Sequence[str]) -> list[str]:
        return []

    def ensure_peers(self, peers: Sequence[str]) -> bool:
        return False

    @property
    def _uplink(self) -> str:
        return "".join(f"add {flow}\n" for flow in openflow.uplink_flows(self._inside))


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where `uri` names no bridge."""
    _parsed(uri)
    return VlanNetwork.capabilities


def network(uri: str, host: HostRef, access: Access) -> VlanNetwork:
    bridge, tags = _parsed(uri)
    return VlanNetwork(bridge, ssh_module.connection(host, access), tags)


def _parsed(uri: str) -> tuple[str, int]:
    return switch.bridge_of(uri, {QINQ}), 2 if switch.outer_tag(uri) else 1
