"""`vdc vnet ...`: virtual networks."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.names import find
from vdc.schema import Vnet


@click.group()
def group() -> None:
    """Virtual networks and their leases."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Virtual networks, by name."""
    with reading() as session:
        rows = listings.vnets(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        ("name", "uri", "vlan_id", "cidr", "gateway", "first_address", "last_address", "public", "leases"),
        empty="No network yet. Make one: vdc vnet create NAME --vlan 100 --cidr 10.1.0.0/24",
    )


@group.command()
@click.argument("name")
@json_option
def leases(name: str, as_json: bool) -> None:
    """Which machine has which address."""
    with reading() as session:
        find(session, Vnet, "virtual network", name)
        rows = listings.leases(session, name)
    if as_json:
        print_json(rows)
        return
    print_table(rows, ("address", "mac", "vm", "tenant"), empty=f"Network {name} has no lease.")


@group.command()
@click.argument("name")
@click.option("--uri", default="vlan://ovsbr0", show_default=True, help="Driver and uplink on the hosts.")
@click.option("--vlan", "vlan_id", type=int, help="802.1Q VLAN id, 1 to 4094.")
@click.option("--cidr", required=True, help="IPv4 network, such as 10.1.0.0/24.")
@click.option("--gateway", help="Router's address in it; it is never leased.")
@click.option("--first", "first_address", help="First address to lease; none: the network's first.")
@click.option("--last", "last_address", help="Last address to lease; none: the network's last.")
@click.option("--public", is_flag=True, help="It is the site's way out: routers have a card on it.")
@click.option("--dns", multiple=True, help="Name server that machines are told (repeatable).")
def create(name: str, uri: str, dns: tuple[str, ...], **options: object) -> None:
    """Make a virtual network."""
    from drivers.registry import network_capabilities
    from vdc.catalog import create_vnet

    needs_vlan = network_capabilities(uri).vlan
    with writing() as session:
        vnet = create_vnet(
            session,
            name,
            uri=uri,
            needs_vlan=needs_vlan,
            dns=dns,
            actor=actor(),
            **options,  # type: ignore[arg-type]
        )
        but = f", but for the gateway {vnet.gateway}" if vnet.gateway else ""
        print_line(f"Network {name} leases {vnet.first_address} to {vnet.last_address}{but}.")
