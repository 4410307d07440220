"""`vdc datastore ...`: places for images and disks."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Places for images and disks."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Datastores: size and free space as last observed, and what machines were promised."""
    with reading() as session:
        rows = listings.datastores(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        ("name", "uri", "disk_format", "capacity_mib", "free_mib", "allocated_mib", "hosts"),
        empty="No datastore yet. Add one: vdc datastore create NAME --uri qcow2:///srv/vdc/shared",
    )


@group.command()
@click.argument("name")
@click.option("--uri", required=True, help="qcow2:///DIRECTORY or raw:///DIRECTORY, as hosts mount it.")
def create(name: str, uri: str) -> None:
    """Write a datastore down. Hosts prove that they mount it when they are enrolled."""
    from drivers.registry import datastore_capabilities
    from vdc.catalog import create_datastore

    disk_format = datastore_capabilities(uri).disk_format
    with writing() as session:
        create_datastore(session, name, uri, disk_format=disk_format, actor=actor())
    print_line(f"Datastore {name} is at {uri}.")
