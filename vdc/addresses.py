"""IPv4 pools: which addresses a virtual network hands out, and the next free ones. Pure functions."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from vdc.errors import Invalid


def parse_network(cidr: str) -> IPv4Network:
    """Raises Invalid where `cidr` is no IPv4 network of /8 to /30, or has host bits set."""
    try:
        network = IPv4Network(cidr)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise Invalid(f"CIDR {cidr!r} is no IPv4 network: {error}.") from error
    if not 8 <= network.prefixlen <= 30:
        raise Invalid(f"CIDR {cidr} has prefix /{network.prefixlen}: give one from /8 to /30.")
    return network


def parse_member(text: str, network: IPv4Network, what: str) -> IPv4Address:
    """A usable host address of `network`. Raises Invalid, naming `what`, where it is none."""
    try:
        address = IPv4Address(text)
    except (AddressValueError, ValueError) as error:
        raise Invalid(f"{what} {text!r} is no IPv4 address: {error}.") from error
    if address not in network or address in (network.network_address, network.broadcast_address):
        raise Invalid(f"{what} {address} is not a host address of {network}.")
    return address


def pool(
    cidr: str, gateway: str | None, first: str | None, last: str | None
) -> tuple[IPv4Address, IPv4Address]:
    """First and last address handed out; the gateway is left out where it lies between them.

    Raises Invalid where the range or the gateway is not inside `cidr`, the range is backwards, or a range
    that was given holds the gateway: a machine with the gateway's address would take its neighbours' traffic.
    """
    network = parse_network(cidr)
    low = parse_member(first, network, "First address") if first else network.network_address + 1
    high = parse_member(last, network, "Last address") if last else network.broadcast_address - 1
    if low > high:
        raise Invalid(f"The range {low} to {high} is backwards.")
    if gateway is not None:
        router = parse_member(gateway, network, "Gateway")
        if (first or last) and low <= router <= high:
            raise Invalid(f"The range {low} to {high} holds the gateway {router}: leave it out.")
    return low, high


def mac_of(address: IPv4Address, index: int) -> str:
    """A locally administered MAC that carries the address: unique where the address is.

    The card's `index` is in it too, as one machine may have equal addresses on two networks.
    """
    return f"02:{index:02x}:" + ":".join(f"{byte:02x}" for byte in address.packed)


def free_addresses(
    first: IPv4Address, last: IPv4Address, taken: Collection[str], count: int
) -> list[IPv4Address]:
    """The lowest `count` addresses of the range that are not taken; fewer where it is exhausted."""
    found: list[IPv4Address] = []
    for number in range(int(first), int(last) + 1):
        if len(found) == count:
            break
        address = IPv4Address(number)
        if str(address) not in taken:
            found.append(address)
    return found
