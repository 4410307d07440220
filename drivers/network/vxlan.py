"""Virtual networks in VXLAN tunnels between the hosts: `vxlan://eth1`, the device of the tunnels.

Machines are on a bridge of ours, which has the tunnel of each network as an access port with the network's
tag: rules and ports are as on VLANs, and the tunnels are the bridge's uplinks::

    guest -- vd0123456789-0 (tag 100) -- vdc-vx-89abcdef -- vx89abcdef-100 (tag 100) == the other hosts
                                         flows              VNI 100

A tunnel learns where MACs are; what it has not learned, or is for everybody, it sends to each of its peers.
These are kept with the bridge, so that a tunnel that is made later, or anew after a reboot, has them too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address

from drivers import ssh as ssh_module
from drivers.contract import Access, NetworkCapabilities
from drivers.network import openflow, ovs
from drivers.ssh import Ssh
from vdc.errors import DriverFailure, Invalid
from vdc.model import Attachment, HostRef, NicSpec, VnetSpec
from vdc.vxlan import Underlay, underlay

TRUST_S = 30.0
"""How long a tunnel that was seen is taken to be there."""
GUEST_MTU = 1500
OVERHEAD = 50
"""Bytes that a tunnel puts around a frame's payload: Ethernet, IPv4, UDP, VXLAN."""

_COMMON = (
    f"MTU={GUEST_MTU} NEEDED={GUEST_MTU + OVERHEAD}\n"
    + """
set -eu
device=$1 own=$2 inner=$3; shift 3
NOBODY=00:00:00:00:00:00
made=''

# Ends with why the device carries no tunnel, if so.
check_underlay() {
  [ -e "/sys/class/net/$device" ] || { echo "no device"; exit 0; }
  ip -4 -o address show dev "$device" | grep -qF " inet $own/" || { echo "no address"; exit 0; }
  read -r mtu < "/sys/class/net/$device/mtu"
  [ "$mtu" -ge "$NEEDED" ] || { echo "mtu $mtu"; exit 0; }
}

# One at a time on this host, until the end: what one has read of peers no other one changes meanwhile.
take_turn() {
  exec 9>"/run/$inner.lock"
  flock -w 20 9 || { echo "others have worked on $inner for 20 s" >&2; exit 1; }
}

has_bridge() { ovs-vsctl --timeout=10 list-br | grep -qx "$inner"; }

ensure_bridge() {
  ! has_bridge || return 0
  # In the kernel where its module is there; what Open vSwitch says that it could do does not tell.
  kind=system
  ovs-dpctl dump-dps >/dev/null 2>&1 || kind=netdev
  ovs-vsctl --timeout=10 -- --may-exist add-br "$inner" \
    -- set Bridge "$inner" fail_mode=secure datapath_type="$kind"
  made=made
}

kept_peers() { ovs-vsctl --timeout=10 --if-exists get Bridge "$inner" external_ids:vdc-peers | tr -d '"'; }

# One whose device is gone, as after a reboot, is made anew with the peers that are kept.
tunnels() {
  for port in $(ovs-vsctl --timeout=10 list-ports "$inner"); do
    case $port in vx*) [ ! -e "/sys/class/net/$port" ] || echo "$port" ;; esac
  done
}

# What it sends to everybody goes to.
flooded() { bridge fdb show dev "$1" | sed -n "s/^$NOBODY .*dst \\([0-9.]*\\).*/\\1/p"; }

ensure_flooded() {  # TUNNEL PEERS
  has=$(flooded "$1" | tr '\\n' ' ')
  for peer in $2; do
    case " $has" in *" $peer "*) continue ;; esac
    bridge fdb append "$NOBODY" dev "$1" dst "$peer"
    made=made
  done
  for peer in $has; do
    case " $2 " in *" $peer "*) continue ;; esac
    bridge fdb delete "$NOBODY" dev "$1" dst "$peer"
    made=made
  done
}
"""
)

# The tunnel is flooded to its peers before its flows let anything in or out.
_ENSURE = (
    _COMMON
    + """
tunnel=$1 tag=$2 vni=$3 port=$4
check_underlay
take_turn
ensure_bridge
is=$(ip -d -o link show dev "$tunnel" 2>&1) || is=''
case "$is" in
  '' | *" vxlan id $vni local $own dev $device "*" dstport $port "*) ;;
  *) ip link delete dev "$tunnel"; is='' ;;
esac
if [ -z "$is" ]; then
  # The switch may still hold a device of that name that is gone.
  ovs-vsctl --timeout=10 --if-exists del-port "$inner" "$tunnel"
  ip link add dev "$tunnel" mtu "$MTU" \
    type vxlan id "$vni" local "$own" dev "$device" dstport "$port" learning || {
    echo "has another device VNI $vni on UDP port $port? (ip -d link show type vxlan)" >&2
    exit 1
  }
  made=made
fi
# The host has no part in the network: no address, and no answer to who asks for one.
[ ! -d /proc/sys/net/ipv6 ] || ip link set dev "$tunnel" addrgenmode none
ip link set dev "$tunnel" arp off up
tunnels | grep -qx "$tunnel" || made=made
ovs-vsctl --timeout=10 -- --may-exist add-port "$inner" "$tunnel" -- set Port "$tunnel" tag="$tag"
ensure_flooded "$tunnel" "$(kept_peers)"
ovs-ofctl --bundle add-flows "$inner" -
echo "$made"
"""
)

# Kept first: a tunnel that is made from now on has them.
_TELL = (
    _COMMON
    + """
peers=$1
check_underlay
take_turn
ensure_bridge
if [ "$(kept_peers)" != "$peers" ]; then
  ovs-vsctl --timeout=10 set Bridge "$inner" external_ids:vdc-peers="\\"$peers\\""
  made=made
fi
for tunnel in $(tunnels); do ensure_flooded "$tunnel" "$peers"; done
echo "$made"
"""
)

_READ = (
    _COMMON
    + """
check_underlay
has_bridge || exit 0
echo "$(kept_peers)"
for tunnel in $(tunnels); do echo $(flooded "$tunnel"); done
"""
)


class VxlanNetwork:
    """The tunnels of one host."""

    capabilities = NetworkCapabilities(isolated=True, vlan=True, filtering=True, peers=True)

    def __init__(self, uri: str, own: str, ssh: Ssh) -> None:
        """`own`: the address at which the other hosts reach this one."""
        self._underlay: Underlay = underlay(uri)
        self._own = own
        self._ssh = ssh
        self._seen_at: dict[int, float] = {}
        self._inner = bridge_of(uri)

    def ensure_network(self, vnet: VnetSpec) -> bool:
        tag = ovs.tag(vnet)
        if time.monotonic() - self._seen_at.get(tag, -TRUST_S) < TRUST_S:
            return False
        told = self._run(
            _ENSURE,
            [self._tunnel(tag), str(tag), str(self._underlay.vni_base + tag), str(self._underlay.port)],
            f"making the tunnel of {vnet.name} on {self._underlay.device}",
            whose=f"machines of {vnet.name}",
            stdin=openflow.tunnel_replacement(self._tunnel(tag), vnet),
        )
        self._seen_at[tag] = time.monotonic()
        return "made" in told

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        ovs.tag(vnet)
        # As on VLANs: a switch in user space does not complete what a guest leaves to the card.
        return Attachment(device=nic.device, mac=nic.mac, offloads=False)

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        return bool(nics) and ovs.make_ports(self._ssh, self._inner, nics, like=self._inner)

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        if not nics:
            return []
        seen = ovs.read_seen(self._ssh, self._inner)
        cut = {ovs.tag(nic.vnet) for nic in nics if not seen.issuperset(self._wanted(nic.vnet))}
        for tag in cut:
            self._seen_at.pop(tag, None)
        loose = ovs.unguarded(nics, seen)
        return [nic.device for nic in nics if nic.device in loose or ovs.tag(nic.vnet) in cut]

    def read_ports(self) -> list[str]:
        return ovs.read_ports(self._ssh, self._inner)

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        return bool(devices) and ovs.remove_ports(self._ssh, self._inner, devices)

    def ensure_peers(self, peers: Sequence[str]) -> bool:
        what = f"telling {self._inner} where the other hosts are"
        told = self._run(_TELL, [" ".join(self._sorted(peers))], what, whose="machines")
        return "made" in told

    def read_peers_amiss(self, peers: Sequence[str]) -> list[str]:
        wanted = set(self._sorted(peers))
        what = f"reading which hosts {self._inner} reaches"
        lines = self._run(_READ, [], what, whose="machines") or [""]
        return self._sorted(set.union(*(wanted ^ set(line.split()) for line in lines)))

    def _sorted(self, peers: Sequence[str] | set[str]) -> list[str]:
        return [str(peer) for peer in sorted({_ipv4(peer, "Another host") for peer in peers})]

    def _tunnel(self, tag: int) -> str:
        return f"{self._inner.removeprefix('vdc-').replace('-', '')}-{tag}"

    def _wanted(self, vnet: VnetSpec) -> list[str]:
        """What is seen of the network's tunnel where it is as it should be."""
        tag = ovs.tag(vnet)
        tunnel = self._tunnel(tag)
        return [f"device {tunnel}", f"{tunnel},{tag},,", openflow.tunnel_present(tunnel, vnet)]

    def _run(self, script: str, argv: Sequence[str], what: str, *, whose: str, stdin: str = "") -> list[str]:
        """Lines that the script prints. Raises DriverFailure where the device can carry no tunnel."""
        device = self._underlay.device
        own = str(_ipv4(self._own, f"Host {self._ssh.name}"))
        told = ovs.run(self._ssh, script, [device, own, self._inner, *argv], what, stdin=stdin)
        answer = told[0] if told else ""
        needed = GUEST_MTU + OVERHEAD
        why = {
            "no device": f"there is no device {device}",
            "no address": f"{device} does not have {own}, where the other hosts reach this one. Give it that "
            "address, or enroll the host with the one that it has: --migration-address",
            f"mtu {answer[4:]}": f"{device} has an MTU of {answer[4:]}; guests have {GUEST_MTU}, and tunnels "
            f"take {OVERHEAD} bytes more. On each host, where the switches between them carry as much: "
            f"ip link set dev {device} mtu {needed}",
        }.get(answer)
        if why is not None:
            raise DriverFailure(
                f"{self._ssh.name}: {whose} would reach no other host: {why}.", host=self._ssh.name
            )
        return told


def _ipv4(address: str, whose: str) -> IPv4Address:
    try:
        return IPv4Address(address)
    except AddressValueError as error:
        raise Invalid(
            f"{whose} is reached at {address!r}: tunnels need an IPv4 address, not a name. "
            "Enroll it with --migration-address."
        ) from error


def bridge_of(uri: str) -> str:
    """The bridge that networks of this URI are on."""
    return f"vdc-vx-{hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where `uri` says something else than device, `vni_base` and `port`."""
    underlay(uri)
    return VxlanNetwork.capabilities


def network(uri: str, host: HostRef, access: Access) -> VxlanNetwork:
    return VxlanNetwork(uri, host.peer_address, ssh_module.connection(host, access))
