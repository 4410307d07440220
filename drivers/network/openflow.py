"""What may come out of a card and go into it, as flows of Open vSwitch (ovs-fields(7), ovs-actions(7)). Pure.

A guest sends with its own MAC and IPv4 address, and nothing else: whatever no flow takes is dropped. A card
with security groups is filtered both ways besides, by the connections that the switch keeps track of, in a
zone for each network::

    table 0   whose is it: a card's own, or from the other hosts
    table 10  may the (filtered) card send it
    table 20  to whom it goes: a card here, the other hosts, everybody
    table 30  may the (filtered) card get it

Register 0 has the VLAN, register 1 whether its tag is one of 802.1ad. All bridges of a host share the zones:
of a network in a tunnel, whose number may be a VLAN's too, register 0 has a number more in bits 12 to 15.
Where guests may send tags of their own (`vdc.model.QINQ`), these stay inside; what is in such a frame is not
looked at, beyond its MAC, and a filtered card has no part in it.

All MACs on this host are known, so nothing but what is for everybody is flooded; ports of filtered cards are
left out of that (`no-flood`), and are asked by ARP each on its own.

A flow's cookie says whose it is and what it was made of, so that a look at the switch tells whether all is
there::

    bits 20 to 63   the device: the 10 digits and the index of its name
    bits 0 to 19    a checksum of its flows

That of a network's tunnel has the VLAN in bits 24 to 35, and 15 in bits 20 to 23, which is no card's index.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from drivers.network.switch import mac_of, ours, outer_tag
from vdc.model import NicSpec, Rule, VnetSpec
from vdc.vxlan import SCHEME as VXLAN

_DEVICE_SHIFT = 20
_DEVICE_MASK = 0xFFFF_FFFF_FFF0_0000
_BROADCAST = "ff:ff:ff:ff:ff:ff"
_ZONE = "zone=NXM_NX_REG0[0..15]"
_SENDS, _GOES, _GETS = 10, 20, 30
_TAGGED, _UNTAGGED = "vlan_tci=0x1000/0x1000", "vlan_tci=0/0x1000"
_GROUP = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
_Q, _AD = "0x8100", "0x88a8"
_KEEP_VLAN = "move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG0[0..11]"
TO_EVERYBODY = f"table={_GOES},priority=50,{_GROUP},actions=NORMAL"


def uplink_flows(port: str) -> list[str]:
    """What comes from the other hosts, and goes to them.

    The tag stays on what is for everybody, as the switch itself (NORMAL) goes by it.
    """
    tagged, ad = f"{_tag(_Q)},output:{port}", f"{_tag(_AD)},output:{port}"
    return [
        f"table=0,priority=11,in_port={port},{_TAGGED},{_GROUP},actions={_KEEP_VLAN},resubmit(,{_GOES})",
        f"table=0,priority=10,in_port={port},{_TAGGED},actions={_KEEP_VLAN},pop_vlan,resubmit(,{_GOES})",
        TO_EVERYBODY,
        f"table={_GOES},priority=20,in_port={port},actions=drop",
        f"table={_GOES},priority=13,reg1=1,ip,ct_state=+trk+new,actions=ct(commit,{_ZONE}),{ad}",
        f"table={_GOES},priority=12,reg1=1,actions={ad}",
        f"table={_GOES},priority=11,ip,ct_state=+trk+new,actions=ct(commit,{_ZONE}),{tagged}",
        f"table={_GOES},priority=10,actions={tagged}",
    ]


def _tag(kind: str) -> str:
    return f"push_vlan:{kind},move:NXM_NX_REG0[0..11]->NXM_OF_VLAN_TCI[0..11]"


def _number(vnet: VnetSpec) -> int:
    """What register 0 has of a network."""
    assert vnet.vlan_id is not None, "looked at before"
    if urlsplit(vnet.uri).scheme != VXLAN:
        return vnet.vlan_id
    return (1 + zlib.crc32(vnet.uri.encode()) % 15 << 12) + vnet.vlan_id


def _tunnel_flows(port: str, vnet: VnetSpec) -> list[str]:
    """As `uplink_flows`, of a port that carries one network and no tags. `TO_EVERYBODY` comes beside."""
    number = _number(vnet)
    to = f"table={_GOES},priority"
    return [
        f"table=0,priority=10,in_port={port},{_UNTAGGED},"
        f"actions=load:{number}->NXM_NX_REG0[],resubmit(,{_GOES})",
        f"{to}=20,in_port={port},actions=drop",
        f"{to}=11,reg0={number},ip,ct_state=+trk+new,actions=ct(commit,{_ZONE}),output:{port}",
        f"{to}=10,reg0={number},actions=output:{port}",
    ]


def _flows(nic: NicSpec) -> list[str]:
    """Each once: rules may overlap."""
    number = _number(nic.vnet)
    return list(dict.fromkeys((*_sends(nic, number), *_gets(nic, number))))


def _sends(nic: NicSpec, number: int) -> Iterator[str]:
    mac, address, port = mac_of(nic), nic.address, ours(nic.device)
    own = f"table=0,priority=100,in_port={port},vlan_tci=0,dl_src={mac}"
    around = outer_tag(nic.vnet.uri)
    ad = "load:1->NXM_NX_REG1[]," if around == "802.1ad" else ""
    goes = f"actions=load:{number}->NXM_NX_REG0[],{ad}resubmit(,{_GOES})"
    asks = goes if nic.rules is None else goes.replace(f",{_GOES})", f",{_SENDS})")
    yield f"{own},arp,arp_sha={mac},arp_spa={address},{goes}"
    # Whether an address is free is asked without one (RFC 5227).
    yield f"{own},arp,arp_sha={mac},arp_op=1,arp_spa=0.0.0.0,{goes}"
    yield f"{own},ip,nw_src={address},{asks}"
    if nic.routes:
        # From everywhere but its own network, where others have their addresses.
        elsewhere = own.replace("priority=100", "priority=98")
        yield f"{own.replace('priority=100', 'priority=99')},ip,nw_src={nic.vnet.cidr},actions=drop"
        yield f"{elsewhere},ip,{asks}"
    yield f"{own},udp,nw_src=0.0.0.0,nw_dst=255.255.255.255,tp_src=68,tp_dst=67,{goes}"
    # QEMU says so where a machine has come to that migrated.
    yield f"{own},dl_type=0x8035,{goes}"
    if nic.rules is None:
        if around:
            own = f"in_port={port},{_TAGGED},dl_src={mac}"
            # Not looked for in table 20: what is asked for by ARP inside of a tag is another's address.
            yield f"table=0,priority=101,{own},{_GROUP},actions=NORMAL"
            yield f"table=0,priority=100,{own},{goes}"
        return
    of = f"table={_SENDS},in_port={port},ip"
    yield f"{of},priority=100,ct_state=-trk,actions=ct({_ZONE},table={_SENDS})"
    for state in ("+est", "+rel"):
        yield f"{of},priority=90,ct_state=+trk{state}-inv,actions=resubmit(,{_GOES})"
    for match in _matches(nic.rules, "out", "nw_dst"):
        yield (
            f"table={_SENDS},in_port={port},priority=80,ct_state=+trk+new-inv,{match},"
            f"actions=resubmit(,{_GOES})"
        )


def _gets(nic: NicSpec, number: int) -> Iterator[str]:
    mac, port = mac_of(nic), ours(nic.device)
    to = f"reg0={number},dl_dst={mac}"
    out = f"output:{port}"
    if nic.rules is None:
        yield f"table={_GOES},priority=101,{to},ip,ct_state=+trk+new,actions=ct(commit,{_ZONE}),{out}"
        yield f"table={_GOES},priority=100,{to},actions={out}"
        return
    yield f"table={_GOES},priority=102,{to},{_TAGGED},actions=drop"
    yield f"table={_GOES},priority=100,{to},ip,ct_state=-trk,actions=ct({_ZONE},table={_GETS})"
    yield f"table={_GOES},priority=99,{to},ip,actions=resubmit(,{_GETS})"
    yield f"table={_GOES},priority=99,{to},arp,actions={out}"
    yield f"table={_GOES},priority=98,{to},actions=drop"
    asked = f"reg0={number},dl_dst={_BROADCAST},arp,arp_tpa={nic.address}"
    yield f"table={_GOES},priority=91,in_port={port},{asked},actions=NORMAL"
    yield f"table={_GOES},priority=90,{asked},{_UNTAGGED},actions={out}"
    yield f"table={_GOES},priority=90,{asked},{_TAGGED},actions=pop_vlan,resubmit(,{_GETS})"
    yield f"table={_GETS},priority=101,{asked},{_UNTAGGED},actions={out}"
    if around := outer_tag(nic.vnet.uri):
        back = _tag(_AD if around == "802.1ad" else _Q)
        yield f"table={_GETS},priority=100,{asked},{_TAGGED},actions={back},NORMAL"
    for state in ("+est", "+rel"):
        yield f"table={_GETS},priority=90,{to},ip,ct_state=+trk{state}-inv,actions={out}"
    for match in _matches(nic.rules, "in", "nw_src"):
        yield (
            f"table={_GETS},priority=80,{to},ct_state=+trk+new-inv,{match},actions=ct(commit,{_ZONE}),{out}"
        )


def _matches(rules: Sequence[Rule], direction: str, remote: str) -> Iterator[str]:
    for rule in rules:
        if rule.direction != direction:
            continue
        protocol = "ip" if rule.protocol == "any" else rule.protocol
        match = protocol if rule.cidr == "0.0.0.0/0" else f"{protocol},{remote}={rule.cidr}"
        if not rule.last_port:
            yield match
            continue
        for first, mask in port_masks(rule.first_port, rule.last_port):
            yield f"{match},tp_dst={first:#x}/{mask:#x}"


def port_masks(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The ports from `first` to `last` as (value, mask) pairs: the largest aligned blocks, in order."""
    while first <= last:
        size = first & -first or 0x10000
        while first + size - 1 > last:
            size //= 2
        yield first, 0xFFFF & ~(size - 1)
        first += size


def _of_device(device: str) -> int:
    return int(ours(device)[2:12] + ours(device)[13:], 16) << _DEVICE_SHIFT


def _of_tunnel(vnet: VnetSpec) -> int:
    assert vnet.vlan_id is not None, "looked at before"
    return (vnet.vlan_id << 4 | 15) << _DEVICE_SHIFT


def _cookie(whose: int, flows: Sequence[str]) -> str:
    digest = hashlib.sha256("\n".join(flows).encode()).digest()
    return f"{whose | int.from_bytes(digest[:4]) >> 12:#x}"


def removal(device: str) -> str:
    """A line for `ovs-ofctl add-flows`: without the device's flows, whatever number its port had."""
    return f"delete cookie={_of_device(device):#x}/{_DEVICE_MASK:#x}"


def replacement(nics: Sequence[NicSpec]) -> str:
    """Lines for `ovs-ofctl add-flows`: the cards' flows instead of those that they have."""
    lines = []
    for nic in nics:
        flows = _flows(nic)
        cookie = _cookie(_of_device(nic.device), flows)
        lines.append(removal(nic.device))
        lines += [f"add cookie={cookie},{flow}" for flow in flows]
    return "".join(f"{line}\n" for line in lines)


def present(nic: NicSpec) -> list[str]:
    """`COUNT COOKIE DEVICE`: what is counted on the switch where the card's flows are all there.

    Those that name its port are counted apart from the others (`-`): a port that was lost and made anew has
    another number, and flows of the old one are no longer named.
    """
    flows = _flows(nic)
    named = sum(f"in_port={nic.device}," in flow or f"output:{nic.device}" in flow for flow in flows)
    counts = {nic.device: named, "-": len(flows) - named}
    cookie = _cookie(_of_device(nic.device), flows)
    return [f"{count} {cookie} {of}" for of, count in counts.items() if count]


def tunnel_replacement(port: str, vnet: VnetSpec) -> str:
    """Lines for `ovs-ofctl add-flows`: the flows of a network's tunnel instead of those that it has."""
    flows = _tunnel_flows(port, vnet)
    cookie = _cookie(_of_tunnel(vnet), flows)
    lines = [f"add {TO_EVERYBODY}", f"delete cookie={_of_tunnel(vnet):#x}/{_DEVICE_MASK:#x}"]
    lines += [f"add cookie={cookie},{flow}" for flow in flows]
    return "".join(f"{line}\n" for line in lines)


def tunnel_present(port: str, vnet: VnetSpec) -> str:
    """As `present`: all flows of a tunnel name its port."""
    flows = _tunnel_flows(port, vnet)
    return f"{len(flows)} {_cookie(_of_tunnel(vnet), flows)} {port}"
