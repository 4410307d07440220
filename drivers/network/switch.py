"""What the network drivers share: names of uplinks and of our ports."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from vdc.errors import Invalid

_BRIDGE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")
_OURS = re.compile(r"vd[0-9a-f]{10}-[0-9]")


def bridge_of(uri: str) -> str:
    """The bridge in a network's URI, such as `vlan://ovsbr0`. Raises Invalid."""
    parts = urlsplit(uri)
    if not _BRIDGE.fullmatch(parts.netloc) or parts.path.strip("/"):
        raise Invalid(f"Network URI {uri!r} should name a bridge: {parts.scheme or 'vlan'}://br0.")
    return parts.netloc


def is_ours(device: str) -> bool:
    """Whether a device's name has the form of `vdc.model.nic_device`."""
    return _OURS.fullmatch(device) is not None


def ours(device: str) -> str:
    """`device`, if it is one of ours. Raises Invalid."""
    if not is_ours(device):
        raise Invalid(f"{device!r} is not a network device of a machine of ours.")
    return device
