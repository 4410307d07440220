"""Rules of security groups as they are typed, and as a switch has them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.network import openflow
from drivers.network.openflow import port_masks
from vdc.errors import Invalid
from vdc.model import NicSpec, Rule, VnetSpec
from vdc.security_groups import describe, merged, parse_line, parse_rule

VNET = VnetSpec("v", "v", "vlan://ovsbr0", 100, "10.0.0.0/24")
NIC = NicSpec(0, VNET, "vd0123456789-0", "02:00:0a:00:00:05", "10.0.0.5")


@pytest.mark.parametrize(
    ("typed", "rule", "said"),
    [
        (("in", "tcp", "22"), Rule("in", "tcp", 22, 22), "in tcp 22 from 0.0.0.0/0"),
        (("out", "udp", "5-6", "10.0.0.0/8"), Rule("out", "udp", 5, 6, "10.0.0.0/8"), "out udp 5-6 to 10.0.0.0/8"),  # noqa: E501
        (("in", "icmp"), Rule("in", "icmp"), "in icmp from 0.0.0.0/0"),
        (("out", "any", "", "10.1.2.3/32"), Rule("out", "any", cidr="10.1.2.3/32"), "out any to 10.1.2.3/32"),
        (("in", "tcp", "80", "0.0.0.0/0", "web"), Rule("in", "tcp", 80, 80, peer="web"), "in tcp 80 from group web"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_is_typed(typed: tuple[str, ...], rule: Rule, said: str) -> None:
    assert parse_rule(*typed) == rule
    assert describe(rule) == said
    assert parse_line(said) == rule


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        (("up", "tcp"), "Direction"),
        (("in", "sctp"), "Protocol"),
        (("in", "icmp", "8"), "only tcp and udp"),
        (("in", "tcp", "0"), "1 to 65535"),
        (("in", "tcp", "90-80"), "lower one first"),
        (("in", "tcp", "1-70000"), "1 to 65535"),
        (("in", "tcp", "http"), "give one"),
        (("in", "tcp", "1-"), "give one"),
        (("in", "tcp", "22", "10.0.0.1/8"), "host bits"),
        (("in", "tcp", "22", "::/0"), "no IPv4"),
    ],
)
def test_what_is_refused(typed: tuple[str, ...], why: str) -> None:
    with pytest.raises(Invalid, match=why):
        parse_rule(*typed)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "in",
        "in tcp 80 from",
        "in tcp 80 to 10.0.0.0/8",
        "in tcp 80 from 1 2",
        "out any from 1",
        "in tcp from group",
        "in from group a b",
    ],
)
def test_lines_that_are_refused(line: str) -> None:
    with pytest.raises(Invalid, match="refused"):
        parse_line(line)


def test_ports_and_the_other_side_may_be_left_out() -> None:
    assert parse_line("in tcp") == Rule("in", "tcp")
    assert parse_line("in tcp from 10.0.0.0/8") == Rule("in", "tcp", cidr="10.0.0.0/8")


@given(st.tuples(st.integers(1, 65535), st.integers(1, 65535)).map(sorted))
def test_masks_are_of_exactly_these_ports(ports: list[int]) -> None:
    first, last = ports
    blocks = list(port_masks(first, last))
    found = [value | rest for value, mask in blocks for rest in (0, 0xFFFF & ~mask)]
    assert found[0] == first
    assert found[-1] == last
    # Each block begins where the one before it ended, on a boundary of its size.
    for (value, mask), (after, _) in pairwise(blocks):
        assert (value | (0xFFFF & ~mask)) + 1 == after
    assert all(value & mask == value for value, mask in blocks)
    assert len(blocks) <= 30


def test_an_order_that_does_not_depend_on_the_groups() -> None:
    a, b = Rule("in", "tcp", 22, 22), Rule("out", "any")
    assert merged([a, b, a]) == merged([b, a])
    assert merged([]) == ()


def test_another_rule_is_another_cookie_and_other_cards_are_others() -> None:
    cards = [
        NIC,
        NicSpec(0, VNET, NIC.device, NIC.mac, NIC.address, ()),
        NicSpec(0, VNET, NIC.device, NIC.mac, NIC.address, (Rule("in", "tcp", 22, 22),)),
        NicSpec(0, VNET, NIC.device, NIC.mac, NIC.address, (Rule("in", "tcp", 23, 23),)),
        NicSpec(0, VNET, NIC.device, NIC.mac, "10.0.0.6"),
        NicSpec(1, VNET, "vd0123456789-1", NIC.mac, NIC.address),
    ]
    cookies = [openflow.present(card)[0].split()[1] for card in cards]
    assert len(set(cookies)) == len(cards)
    masked = {openflow.removal(card.device) for card in cards}
    assert len(masked) == 2, "of a device all go at once"


def test_a_card_without_groups_is_let_be_and_one_with_an_empty_group_gets_nothing() -> None:
    free = openflow.replacement([NIC])
    closed = openflow.replacement([NicSpec(0, VNET, NIC.device, NIC.mac, NIC.address, ())])
    assert "ct(zone" not in free
    assert "+trk+new-inv" not in closed
    assert closed.count("+trk+est-inv") == 2
