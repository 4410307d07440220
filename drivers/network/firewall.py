"""What may come out of a card, as an nftables ruleset of the bridge family (nft(8)). Pure.

One table a host. Each card has a chain, found by the name of its port; a port of ours without one passes
nothing. Rules carry a checksum of their chain as comment, so that a look tells whether all are there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from drivers.network.switch import mac_of, ours
from vdc.model import NicSpec

TABLE = "bridge vdc"
_GUESTS = ('iifname vmap @cards comment "vdc"', 'iifname "vd*" drop comment "vdc"')


def _rules(nic: NicSpec) -> list[str]:
    mac, address = mac_of(nic), nic.address
    return [
        f"ether saddr != {mac} drop",
        # Also where the kernel has taken the tag off: this expression puts it back.
        "ether type { 0x8100, 0x88a8 } drop",
        # Whether an address is free is asked without one (RFC 5227).
        f"arp saddr ether {mac} arp saddr ip {{ 0.0.0.0, {address} }} accept",
        f"ip saddr {address} accept",
        "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        # From everywhere but its own network, where others have their addresses.
        *([f"ip saddr != {nic.vnet.cidr} accept"] if nic.routes else []),
        # QEMU says so where a machine has come to that migrated.
        "ether type 0x8035 accept",
        "drop",
    ]


def _digest(rules: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(rules).encode()).hexdigest()[:16]


def replacement(nics: Iterable[NicSpec]) -> str:
    """Commands that put these cards' rules into force instead of those that they have: all at once."""
    lines = [
        f"add table {TABLE}",
        f"add map {TABLE} cards {{ type ifname : verdict; }}",
        f"add chain {TABLE} guests {{ type filter hook prerouting priority -300; policy accept; }}",
        f"flush chain {TABLE} guests",
        *(f"add rule {TABLE} guests {rule}" for rule in _GUESTS),
    ]
    for nic in nics:
        chain, rules = ours(nic.device), _rules(nic)
        comment = _digest(rules)
        lines += [f"add chain {TABLE} {chain}", f"flush chain {TABLE} {chain}"]
        lines += [f'add rule {TABLE} {chain} {rule} comment "{comment}"' for rule in rules]
        lines.append(f'add element {TABLE} cards {{ "{chain}" : goto {chain} }}')
    return "".join(f"{line}\n" for line in lines)


def removal(devices: Iterable[str]) -> str:
    """Commands that forget these cards. What is not there is added first: it cannot be deleted else."""
    lines = [f"add table {TABLE}", f"add map {TABLE} cards {{ type ifname : verdict; }}"]
    for chain in map(ours, devices):
        lines += [
            f"add chain {TABLE} {chain}",
            f'add element {TABLE} cards {{ "{chain}" : goto {chain} }}',
            f'delete element {TABLE} cards {{ "{chain}" }}',
            f"flush chain {TABLE} {chain}",
            f"delete chain {TABLE} {chain}",
        ]
    return "".join(f"{line}\n" for line in lines)


def unguarded(nics: Iterable[NicSpec], listing: str) -> list[str]:
    """Devices whose rules are not all in force; `listing` is what `nft -j list table bridge vdc` prints.

    Empty: there is no such table.
    """
    found = json.loads(listing)["nftables"] if listing.strip() else []
    rules = Counter((r["chain"], r.get("comment", "")) for item in found if (r := item.get("rule")))
    elements = [item["map"].get("elem", []) for item in found if "map" in item]
    cards = {key: verdict for element in elements for key, verdict in element}
    hooked = any(c.get("hook") == "prerouting" for item in found if (c := item.get("chain")))
    all_in = hooked and rules["guests", "vdc"] == len(_GUESTS)
    return [
        nic.device
        for nic in nics
        if not all_in
        or cards.get(nic.device) != {"goto": {"target": nic.device}}
        or rules[nic.device, _digest(_rules(nic))] != len(_rules(nic))
    ]
