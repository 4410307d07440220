"""Virtual networks on a host's plain Linux bridge, all sharing one segment: `bridge://br0`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from drivers import ssh as ssh_module
from drivers.contract import Access, NetworkCapabilities
from drivers.network import firewall, switch
from drivers.ssh import Ssh
from vdc.errors import DriverFailure, Invalid, Unsupported
from vdc.model import Attachment, HostRef, NicSpec, VnetSpec

TRUST_S = 30.0
"""How long a bridge that was seen with its uplink is taken to be so."""

_PORTS = """
if [ ! -d "/sys/class/net/$1/bridge" ]; then echo "there is no bridge $1" >&2; exit 1; fi
ls "/sys/class/net/$1/brif"
"""

_RULES = """
# What is in force, if anything is: an nft that fails is told.
rules() {
  tables=$(nft list tables bridge)
  ! printf '%s\\n' "$tables" | grep -qx 'table bridge vdc' || nft "$@" list table bridge vdc
}
"""

# The rules are in force before there is a port that they are about.
_MAKE = (
    "set -eu\n"
    + switch.MAKE_TAPS
    + _RULES
    + """
bridge=$1; shift
master="master $bridge"
before=$(rules)
nft -f -
make_taps "$@"
[ -z "$made" ] && [ "$before" = "$(rules)" ] || echo made
"""
)

_REMOVE = (
    "set -eu\n"
    + switch.REMOVE_TAPS
    + """
bridge=$1; shift
for port; do
  shift
  [ ! -e "/sys/class/net/$port" ] || [ -e "/sys/class/net/$bridge/brif/$port" ] || continue
  set -- "$@" "$port"
done
remove_taps "$@"
nft -f -
"""
)


class BridgeNetwork:
    """The Linux bridge of one host."""

    capabilities = NetworkCapabilities(isolated=False, vlan=False)

    def __init__(self, bridge: str, ssh: Ssh) -> None:
        self._bridge = bridge
        self._ssh = ssh
        self._seen_at = -TRUST_S

    def ensure_network(self, vnet: VnetSpec) -> bool:
        if vnet.vlan_id is not None:
            raise Invalid(f"Network {vnet.name}: a plain bridge carries no VLAN; leave the VLAN id out.")
        if time.monotonic() - self._seen_at < TRUST_S:
            return False
        if all(switch.is_ours(port) for port in self._ports()):
            raise DriverFailure(
                f"{self._ssh.name}: bridge {self._bridge} has no uplink; machines of {vnet.name} on "
                f"this host would reach no other host. Add one: ip link set DEVICE master {self._bridge}.",
                host=self._ssh.name,
            )
        self._seen_at = time.monotonic()
        return False

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        return Attachment(device=nic.device, mac=nic.mac)

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        if not nics:
            return False
        if any(nic.rules is not None for nic in nics):
            raise Unsupported(
                f"{self._ssh.name}: bridge {self._bridge} does not follow connections: machines on it cannot "
                "be in security groups."
            )
        argv = ["sh", "-c", _MAKE, "sh", self._bridge, *switch.taps(nics)]
        what = f"making ports on bridge {self._bridge}"
        return bool(self._ssh.run(argv, stdin=firewall.replacement(nics).encode(), what=what))

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        if not nics:
            return []
        argv = ["sh", "-c", f"set -eu\n{_RULES}\nrules -j"]
        listing = self._ssh.run(argv, what=f"reading the rules of bridge {self._bridge}").decode()
        loose, ports = firewall.unguarded(nics, listing), set(self._ports())
        return [nic.device for nic in nics if nic.device in loose or nic.device not in ports]

    def read_ports(self) -> list[str]:
        return [port for port in self._ports() if switch.is_ours(port)]

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        if not devices:
            return False
        argv = ["sh", "-c", _REMOVE, "sh", self._bridge, *(switch.ours(device) for device in devices)]
        what = f"removing ports from bridge {self._bridge}"
        return bool(self._ssh.run(argv, stdin=firewall.removal(devices).encode(), what=what))

    def read_peers_amiss(self, peers: Sequence[str]) -> list[str]:
        return []

    def ensure_peers(self, peers: Sequence[str]) -> bool:
        return False

    def _ports(self) -> list[str]:
        argv = ["sh", "-c", _PORTS, "sh", self._bridge]
        return self._ssh.run(argv, what=f"listing the ports of bridge {self._bridge}").decode().split()


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where `uri` names no bridge."""
    switch.bridge_of(uri)
    return BridgeNetwork.capabilities


def network(uri: str, host: HostRef, access: Access) -> BridgeNetwork:
    return BridgeNetwork(switch.bridge_of(uri), ssh_module.connection(host, access))
