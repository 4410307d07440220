"""Networks in VXLAN tunnels (`vxlan://eth1?vni_base=8000&port=4789`): what their URI says. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from vdc.errors import Invalid
from vdc.model import segment

SCHEME = "vxlan"
PORT = 4789
"""The UDP port that IANA gave to VXLAN."""
MAX_VLAN_ID = 4094
MAX_VNI_BASE = 2**24 - 1 - MAX_VLAN_ID
_DEVICE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True, slots=True)
class Underlay:
    """What the tunnels go over: a device of each host, and how they are told apart on it."""

    device: str
    vni_base: int = 0
    """What is added to the VLAN id of a network to give its VNI (24 bits)."""
    port: int = PORT
    """UDP port of all hosts."""


def underlay(uri: str) -> Underlay:
    """Raises Invalid, with what it should be."""
    parts = urlsplit(uri)
    if not _DEVICE.fullmatch(parts.netloc) or parts.path.strip("/"):
        raise Invalid(f"Network URI {uri!r} should name the hosts' device of its tunnels: {SCHEME}://eth1.")
    limits = {"vni_base": (0, MAX_VNI_BASE), "port": (1, 65535)}
    found: dict[str, int] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in limits or name in found:
            raise Invalid(
                f"Network URI {uri!r} has {name}={value}, which {SCHEME}:// does not know: it takes "
                f"{' and '.join(limits)}, each once."
            )
        low, high = limits[name]
        if not re.fullmatch(r"[0-9]{1,8}", value) or not low <= int(value) <= high:
            raise Invalid(f"Network URI {uri!r}: {name} should be a number from {low} to {high}.")
        found[name] = int(value)
    return Underlay(parts.netloc, **found)


def wire(uri: str, vlan_id: int | None) -> tuple[str, int | None]:
    """What only one virtual network may have: where it is, and its number there. Raises Invalid.

    A host has one tunnel of a VNI on a UDP port, whatever devices these go over.
    """
    if urlsplit(uri).scheme != SCHEME or vlan_id is None:
        return segment(uri), vlan_id
    of = underlay(uri)
    return f"{SCHEME}, UDP port {of.port}, VNI", of.vni_base + vlan_id
