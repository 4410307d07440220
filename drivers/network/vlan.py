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
from drivers.network import openflow, switch
from drivers.ssh import Ssh
from vdc.errors import DriverFailure, Invalid
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

_SEEN = """
# What there is: "COUNT COOKIE DEVICE" of flows, "DEVICE,TAG,MODE,OPTIONS" of ports.
seen() {
  ovs-vsctl --timeout=10 --format=csv --data=bare --no-headings \
    --columns=name,tag,vlan_mode,other_config list Port
  ovs-ofctl --names --no-stats dump-flows "$inner" | sed -n \
    -e 's/^ *cookie=\\(0x[0-9a-f]*\\),/\\1 /' -e tours -e d -e :ours \
    -e 's/ .*\\(in_port=\\|output:\\)"\\{0,1\\}\\(vd[0-9a-f]*-[0-9]\\).*/ \\2/p' -e t \
    -e 's/ .*/ -/p' \
    | sort | uniq -c | sed 's/^ *//'
}
"""

_LOOK = (
    "set -eu\n"
    + _SEEN
    + """
inner=$1
! ovs-vsctl --timeout=10 list-br | grep -qx "$inner" || seen
"""
)

# The port comes before its flows, as these name it: until then it passes nothing.
_MAKE = (
    "set -eu\n"
    + switch.MAKE_TAPS
    + _SEEN
    + """
bridge=$1 inner=$2 taps=$3 wanted=$4 open=$5 filtered=$6; shift 6
master=''
make_taps $taps
if [ -z "$made" ]; then
  now=$(seen)
  missing=$(printf '%s\\n' "$wanted" | while read -r line; do
    printf '%s\\n' "$now" | grep -qxF -e "$line" || echo "$line"
  done)
  [ -n "$missing" ] || exit 0
fi
ovs-vsctl --timeout=10 "$@"
for port in $filtered; do ovs-ofctl mod-port "$inner" "$port" no-flood; done
# What is new is so.
[ -n "$made" ] || for port in $open; do ovs-ofctl mod-port "$inner" "$port" flood; done
ovs-ofctl --bundle add-flows "$inner" -
echo made
"""
)

_REMOVE = (
    "set -eu\n"
    + switch.REMOVE_TAPS
    + """
inner=$1 devices=$2; shift 2
# One transaction and one process: it prints the names of those that are there, and removes them.
found=$(ovs-vsctl --timeout=10 "$@" -- list-br)
for line in $found; do
  [ "$line" != "$inner" ] || ovs-ofctl add-flows "$inner" -
done
echo "$found"
remove_taps $devices
"""
)

_PORTS = """
set -eu
ovs-vsctl --timeout=10 list-ports "$1"
! ovs-vsctl --timeout=10 list-br | grep -qx "$2" || ovs-vsctl --timeout=10 list-ports "$2"
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
        _tag(vnet)
        if time.monotonic() - self._seen_at < TRUST_S:
            return False
        told = self._run(
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
        _tag(vnet)
        # A switch in user space does not complete checksums and segments that a guest leaves to the card.
        return Attachment(device=nic.device, mac=nic.mac, offloads=False)

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        if not nics:
            return False
        argv: list[str] = []
        for nic in nics:
            port, tag = switch.ours(nic.device), f"tag={_tag(nic.vnet)}"
            argv += ["--", "--may-exist", "add-port", self._inner, port, "--", "set", "Port", port, tag]
            if around := switch.outer_tag(nic.vnet.uri):
                argv += ["vlan_mode=dot1q-tunnel", f"other_config:qinq-ethtype={around}"]
            else:
                argv += ["vlan_mode=[]", "--", "remove", "Port", port, "other_config", "qinq-ethtype"]
        told = self._run(
            _MAKE,
            [
                self._bridge,
                self._inner,
                " ".join(switch.taps(nics)),
                "\n".join(_wanted(nics)),
                " ".join(nic.device for nic in nics if nic.rules is None),
                " ".join(nic.device for nic in nics if nic.rules is not None),
                *argv,
            ],
            f"making ports on Open vSwitch bridge {self._inner}",
            stdin=self._uplink + openflow.replacement(nics),
        )
        return "made" in told

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        if not nics:
            return []
        seen = set(self._run(_LOOK, [self._inner], f"reading the flows of {self._inner}"))
        return [nic.device for nic in nics if not seen.issuperset(_wanted([nic]))]

    def read_ports(self) -> list[str]:
        what = f"listing the ports of Open vSwitch bridge {self._bridge}"
        ports = self._run(_PORTS, [self._bridge, self._inner], what)
        return [port for port in ports if switch.is_ours(port)]

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        if not devices:
            return False
        argv: list[str] = []
        for port in map(switch.ours, devices):
            argv += ["--", "--if-exists", "get", "Port", port, "name", "--", "--if-exists", "del-port", port]
        flows = "".join(f"{openflow.removal(device)}\n" for device in devices)
        what = f"removing ports from Open vSwitch bridge {self._inner}"
        told = self._run(_REMOVE, [self._inner, " ".join(devices), *argv], what, stdin=flows)
        return any(switch.is_ours(line.strip('"')) for line in told)

    @property
    def _uplink(self) -> str:
        return "".join(f"add {flow}\n" for flow in openflow.uplink_flows(self._inside))

    def _run(self, script: str, argv: Sequence[str], what: str, stdin: str = "") -> list[str]:
        """Lines that the script prints."""
        told = self._ssh.run(["sh", "-c", script, "sh", *argv], stdin=stdin.encode(), what=what)
        return told.decode().splitlines()


def _wanted(nics: Sequence[NicSpec]) -> list[str]:
    """What `seen` prints of cards that are as they should be."""
    return [line for nic in nics for line in (_port(nic), *openflow.present(nic))]


def _port(nic: NicSpec) -> str:
    around = switch.outer_tag(nic.vnet.uri)
    mode = f"dot1q-tunnel,qinq-ethtype={around}" if around else ","
    return f"{nic.device},{_tag(nic.vnet)},{mode}"


def _tag(vnet: VnetSpec) -> int:
    if vnet.vlan_id is None or not 1 <= vnet.vlan_id <= 4094:
        raise Invalid(f"Network {vnet.name} needs a VLAN id from 1 to 4094, not {vnet.vlan_id}.")
    return vnet.vlan_id


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where `uri` names no bridge."""
    _parsed(uri)
    return VlanNetwork.capabilities


def network(uri: str, host: HostRef, access: Access) -> VlanNetwork:
    bridge, tags = _parsed(uri)
    return VlanNetwork(bridge, ssh_module.connection(host, access), tags)


def _parsed(uri: str) -> tuple[str, int]:
    return switch.bridge_of(uri, {QINQ}), 2 if switch.outer_tag(uri) else 1
