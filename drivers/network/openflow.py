"""What may come out of a card, as flows of Open vSwitch (ovs-fields(7), ovs-ofctl(8)). Pure.

A guest sends with its own MAC and IPv4 address, and nothing else: whatever no flow takes is dropped. A flow's
cookie says whose it is and what it was made of, so that a look at the switch tells whether all is there::

    bits 20 to 63   the device: the 10 digits and the index of its name
    bits 0 to 19    a checksum of its flows
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from drivers.network.switch import mac_of, ours
from vdc.model import NicSpec

_DEVICE_SHIFT = 20
_DEVICE_MASK = 0xFFFF_FFFF_FFF0_0000


def uplink_flow(port: str) -> str:
    """What comes from the other hosts goes where the switch has learned that it belongs."""
    return f"priority=10,in_port={port},actions=NORMAL"


def _flows(nic: NicSpec) -> list[str]:
    mac, address = mac_of(nic), nic.address
    untagged = f"priority=100,in_port={ours(nic.device)},vlan_tci=0,dl_src={mac}"
    arp = f"{untagged},arp,arp_sha={mac}"
    return [
        f"{arp},arp_spa={address},actions=NORMAL",
        # Whether an address is free is asked without one (RFC 5227).
        f"{arp},arp_op=1,arp_spa=0.0.0.0,actions=NORMAL",
        f"{untagged},ip,nw_src={address},actions=NORMAL",
        f"{untagged},udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67,actions=NORMAL",
        # QEMU says so where a machine has come to that migrated.
        f"{untagged},dl_type=0x8035,actions=NORMAL",
    ]


def _of_device(device: str) -> int:
    return int(ours(device)[2:12] + ours(device)[13:], 16) << _DEVICE_SHIFT


def _cookie(nic: NicSpec) -> str:
    digest = hashlib.sha256("\n".join(_flows(nic)).encode()).digest()
    return f"{_of_device(nic.device) | int.from_bytes(digest[:4]) >> 12:#x}"


def removal(device: str) -> str:
    """A line for `ovs-ofctl add-flows`: without the device's flows, whatever number its port had."""
    return f"delete cookie={_of_device(device):#x}/{_DEVICE_MASK:#x}"


def replacement(nics: Sequence[NicSpec]) -> str:
    """Lines for `ovs-ofctl add-flows`: the cards' flows instead of those that they have."""
    lines = []
    for nic in nics:
        lines.append(removal(nic.device))
        lines += [f"add cookie={_cookie(nic)},{flow}" for flow in _flows(nic)]
    return "".join(f"{line}\n" for line in lines)


def present(nic: NicSpec) -> str:
    """`COUNT COOKIE DEVICE`: what is counted on the switch where the card's flows are all there."""
    return f"{len(_flows(nic))} {_cookie(nic)} {nic.device}"
