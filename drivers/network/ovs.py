"""What the drivers on Open vSwitch share: the cards' ports on a bridge of ours, with their flows.

What no flow of ours lets through such a bridge drops, also while nobody has told it anything
(`fail_mode=secure`).
"""

from __future__ import annotations

from collections.abc import Sequence

from drivers.network import openflow, switch
from drivers.ssh import Ssh
from vdc.errors import Invalid
from vdc.model import NicSpec, VnetSpec

SEEN = """
# What there is: "COUNT COOKIE DEVICE" of flows, "DEVICE,TAG,MODE,OPTIONS" of ports, "device DEVICE" of
# tunnels: that one is gone, the switch learns later.
seen() {
  for path in /sys/class/net/vx*; do echo "device ${path##*/}"; done
  ovs-vsctl --timeout=10 --format=csv --data=bare --no-headings \
    --columns=name,tag,vlan_mode,other_config list Port
  ovs-ofctl --names --no-stats dump-flows "$inner" | sed -n \
    -e 's/^ *cookie=\\(0x[0-9a-f]*\\),/\\1 /' -e tours -e d -e :ours \
    -e 's/ .*\\(in_port=\\|output:\\)"\\{0,1\\}\\(v[dx][0-9a-f]*-[0-9]*\\).*/ \\2/p' -e t \
    -e 's/ .*/ -/p' \
    | sort | uniq -c | sed 's/^ *//'
}
"""

_LOOK = (
    "set -eu\n"
    + SEEN
    + """
inner=$1
! ovs-vsctl --timeout=10 list-br | grep -qx "$inner" || seen
"""
)

# The port comes before its flows, as these name it: until then it passes nothing.
_MAKE = (
    "set -eu\n"
    + switch.MAKE_TAPS
    + SEEN
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
[ -z "$1" ] || ovs-vsctl --timeout=10 list-ports "$1"
! ovs-vsctl --timeout=10 list-br | grep -qx "$2" || ovs-vsctl --timeout=10 list-ports "$2"
"""


def make_ports(ssh: Ssh, inner: str, nics: Sequence[NicSpec], *, like: str, also: str = "") -> bool:
    """Make the cards' ports on bridge `inner`, with the MTU of the device `like`: whether any was made.

    `also` are lines for `ovs-ofctl add-flows` that go into the same transaction.
    """
    argv: list[str] = []
    for nic in nics:
        port, its = switch.ours(nic.device), f"tag={tag(nic.vnet)}"
        argv += ["--", "--may-exist", "add-port", inner, port, "--", "set", "Port", port, its]
        if around := switch.outer_tag(nic.vnet.uri):
            argv += ["vlan_mode=dot1q-tunnel", f"other_config:qinq-ethtype={around}"]
        else:
            argv += ["vlan_mode=[]", "--", "remove", "Port", port, "other_config", "qinq-ethtype"]
    told = run(
        ssh,
        _MAKE,
        [
            like,
            inner,
            " ".join(switch.taps(nics)),
            "\n".join(_wanted(nics)),
            " ".join(nic.device for nic in nics if nic.rules is None),
            " ".join(nic.device for nic in nics if nic.rules is not None),
            *argv,
        ],
        f"making ports on Open vSwitch bridge {inner}",
        stdin=also + openflow.replacement(nics),
    )
    return "made" in told


def read_seen(ssh: Ssh, inner: str) -> set[str]:
    """What `seen` prints of ports and flows; nothing where there is no bridge `inner`."""
    return set(run(ssh, _LOOK, [inner], f"reading the flows of {inner}"))


def unguarded(nics: Sequence[NicSpec], seen: set[str]) -> list[str]:
    """Devices of those of the cards whose port or flows are not, or not all, among what was seen."""
    return [nic.device for nic in nics if not seen.issuperset(_wanted([nic]))]


def read_ports(ssh: Ssh, inner: str, outer: str = "") -> list[str]:
    """Devices of ours on bridge `inner`, and on the operator's bridge `outer` which must be there."""
    what = f"listing the ports of Open vSwitch bridge {outer or inner}"
    return [port for port in run(ssh, _PORTS, [outer, inner], what) if switch.is_ours(port)]


def remove_ports(ssh: Ssh, inner: str, devices: Sequence[str]) -> bool:
    """Remove ports and their flows: whether any was there."""
    argv: list[str] = []
    for port in map(switch.ours, devices):
        argv += ["--", "--if-exists", "get", "Port", port, "name", "--", "--if-exists", "del-port", port]
    flows = "".join(f"{openflow.removal(device)}\n" for device in devices)
    what = f"removing ports from Open vSwitch bridge {inner}"
    told = run(ssh, _REMOVE, [inner, " ".join(devices), *argv], what, stdin=flows)
    return any(switch.is_ours(line.strip('"')) for line in told)


def run(ssh: Ssh, script: str, argv: Sequence[str], what: str, stdin: str = "") -> list[str]:
    """Lines that the script prints."""
    told = ssh.run(["sh", "-c", script, "sh", *argv], stdin=stdin.encode(), what=what)
    return told.decode().splitlines()


def tag(vnet: VnetSpec) -> int:
    """The VLAN id of the network. Raises Invalid where it has none, or one that there is not."""
    if vnet.vlan_id is None or not 1 <= vnet.vlan_id <= 4094:
        raise Invalid(f"Network {vnet.name} needs a VLAN id from 1 to 4094, not {vnet.vlan_id}.")
    return vnet.vlan_id


def _wanted(nics: Sequence[NicSpec]) -> list[str]:
    """What `seen` prints of cards that are as they should be."""
    return [line for nic in nics for line in (_port(nic), *openflow.present(nic))]


def _port(nic: NicSpec) -> str:
    around = switch.outer_tag(nic.vnet.uri)
    mode = f"dot1q-tunnel,qinq-ethtype={around}" if around else ","
    return f"{nic.device},{tag(nic.vnet)},{mode}"
