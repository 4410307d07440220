"""IPv4 pools: what is refused with which sentence, and which addresses come out."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdc.addresses import free_addresses, mac_of, pool
from vdc.errors import Invalid

CIDR = "10.1.0.0/24"


@pytest.mark.parametrize(
    ("given_range", "expected"),
    [
        ((CIDR, None, None, None), ("10.1.0.1", "10.1.0.254")),
        ((CIDR, "10.1.0.1", None, None), ("10.1.0.1", "10.1.0.254")),
        ((CIDR, "10.1.0.1", "10.1.0.10", "10.1.0.20"), ("10.1.0.10", "10.1.0.20")),
        ((CIDR, None, "10.1.0.9", "10.1.0.9"), ("10.1.0.9", "10.1.0.9")),
        (("10.1.0.0/30", None, None, None), ("10.1.0.1", "10.1.0.2")),
    ],
)
def test_pools(
    given_range: tuple[str, str | None, str | None, str | None], expected: tuple[str, str]
) -> None:
    assert tuple(map(str, pool(*given_range))) == expected


@pytest.mark.parametrize(
    ("given_range", "sentence"),
    [
        (("10.1.0.5/24", None, None, None), "has host bits set"),
        (("10.1.0.0/33", None, None, None), "no IPv4 network"),
        (("fd00::/64", None, None, None), "no IPv4 network"),
        (("", None, None, None), "no IPv4 network"),
        (("10.1.0.0/31", None, None, None), "prefix /31"),
        (("0.0.0.0/0", None, None, None), "prefix /0"),
        ((CIDR, "10.2.0.1", None, None), "Gateway 10.2.0.1 is not a host address of 10.1.0.0/24"),
        ((CIDR, "10.1.0.255", None, None), "Gateway 10.1.0.255 is not a host address"),
        ((CIDR, "10.1.0.0", None, None), "Gateway 10.1.0.0 is not a host address"),
        ((CIDR, "gw", None, None), "Gateway 'gw' is no IPv4 address"),
        ((CIDR, None, "10.1.0.20", "10.1.0.10"), "backwards"),
        ((CIDR, None, "10.3.0.1", None), "First address 10.3.0.1 is not a host address"),
        ((CIDR, None, None, "10.1.0.255"), "Last address 10.1.0.255 is not a host address"),
        ((CIDR, "10.1.0.15", "10.1.0.10", "10.1.0.20"), "holds the gateway 10.1.0.15: leave it out"),
        ((CIDR, "10.1.0.15", "10.1.0.10", None), "holds the gateway"),
    ],
)
def test_refusals(given_range: tuple[str, str | None, str | None, str | None], sentence: str) -> None:
    with pytest.raises(Invalid, match=sentence):
        pool(*given_range)


def test_the_lowest_free_addresses_come_first() -> None:
    first, last = IPv4Address("10.1.0.1"), IPv4Address("10.1.0.6")
    taken = {"10.1.0.1", "10.1.0.3"}
    assert [str(a) for a in free_addresses(first, last, taken, 3)] == ["10.1.0.2", "10.1.0.4", "10.1.0.5"]
    assert len(free_addresses(first, last, taken, 9)) == 4, "exhausted: fewer than asked"


@given(st.integers(8, 30), st.integers(0, 2**32 - 1), st.sets(st.integers(0, 300)), st.integers(0, 50))
def test_an_address_is_in_the_pool_free_and_leased_once(
    prefix: int, base: int, taken: set[int], count: int
) -> None:
    network = IPv4Network((base, prefix), strict=False)
    first, last = pool(str(network), None, None, None)
    names = {str(network.network_address + n) for n in taken if n < network.num_addresses}
    found = free_addresses(first, last, names, count)
    assert len(set(found)) == len(found) <= count
    assert not {str(a) for a in found} & names
    assert all(first <= a <= last for a in found)
    assert len({mac_of(a, 0) for a in found}) == len(found)


def test_a_mac_is_local_and_no_group_address() -> None:
    assert mac_of(IPv4Address("10.1.2.255"), 1) == "02:01:0a:01:02:ff"
