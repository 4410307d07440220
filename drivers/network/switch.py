"""What the network drivers share: names of uplinks and of our ports, and the ports themselves.

A port is made before its machine is: a tap device that stays while no domain uses it. So its rules are
there before a guest is, wherever that is started, plugged in or migrated to; libvirt only opens it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from urllib.parse import parse_qsl, urlsplit

from vdc.errors import Invalid
from vdc.model import QINQ, NicSpec

_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_OURS = re.compile(r"vd[0-9a-f]{10}-[0-9]")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")

MAKE_TAPS = """
# Of DEVICE/MAC...: make those that are not there, plug all in, bring all up.
make_taps() {
  read -r mtu < "/sys/class/net/$bridge/mtu"
  commands='' made=''
  for card; do
    device=${card%/*}
    if [ ! -e "/sys/class/net/$device" ]; then
      made=made
      commands="$commands
tuntap add dev $device mode tap
link set dev $device address ${card#*/} mtu $mtu"
    fi
    commands="$commands
link set dev $device $master up"
  done
  ip -batch - <<END
$commands
END
}
"""
"""Shell function; expects `$bridge` and `$master` (how to plug them in), and sets `$made` if it made any."""

REMOVE_TAPS = """
remove_taps() {
  for port; do
    [ -e "/sys/class/net/$port" ] || continue
    # Somebody else may be faster: then it is gone, and not by us.
    if ip link delete dev "$port"; then echo "$port"; else [ ! -e "/sys/class/net/$port" ]; fi
  done
}
"""
"""Shell function; prints those that it removed."""


def bridge_of(uri: str, options: Collection[str] = ()) -> str:
    """The bridge in a network's URI, such as `vlan://ovsbr0`. Raises Invalid, also for other options."""
    parts = urlsplit(uri)
    if not _BRIDGE.fullmatch(parts.netloc) or parts.path.strip("/"):
        raise Invalid(f"Network URI {uri!r} should name a bridge: {parts.scheme or 'vlan'}://br0.")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in options:
            raise Invalid(f"Network URI {uri!r} has {name}={value}, which {parts.scheme}:// does not know.")
    return parts.netloc


def outer_tag(uri: str) -> str:
    """The kind of the tag around those of the guests: `802.1ad`, `802.1q`, or `` (guests send none).

    Raises Invalid for another one.
    """
    asked = [value for name, value in parse_qsl(urlsplit(uri).query, keep_blank_values=True) if name == QINQ]
    if not asked:
        return ""
    if asked not in (["802.1ad"], ["802.1q"]):
        raise Invalid(f"Network URI {uri!r}: {QINQ} should be 802.1ad or 802.1q.")
    return asked[0]


def is_ours(device: str) -> bool:
    """Whether a device's name has the form of `vdc.model.nic_device`."""
    return _OURS.fullmatch(device) is not None


def ours(device: str) -> str:
    """`device`, if it is one of ours. Raises Invalid."""
    if not is_ours(device):
        raise Invalid(f"{device!r} is not a network device of a machine of ours.")
    return device


def mac_of(nic: NicSpec) -> str:
    """The card's MAC as rules have it. Raises Invalid."""
    mac = nic.mac.lower()
    if not _MAC.fullmatch(mac):
        raise Invalid(f"{nic.mac!r} is no MAC of a network card.")
    return mac


def taps(nics: Iterable[NicSpec]) -> list[str]:
    """Arguments of `make_taps`. The host's end has a MAC of its own, so high that no bridge takes it."""
    return [f"{ours(nic.device)}/fe{mac_of(nic)[2:]}" for nic in nics]
