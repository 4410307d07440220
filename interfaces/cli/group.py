"""`vdc group ...`: affinity groups of machines."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Affinity groups of machines."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Placement groups, with their machines."""
    with reading() as session:
        rows = listings.groups(session)
    if as_json:
        print_json(rows)
        return
    print_table(rows, ("name", "policy", "vms"), empty="No placement group yet.")


@group.command()
@click.argument("name")
@click.option("--policy", required=True, help="affinity (one host for all) or anti-affinity (a host each).")
def create(name: str, policy: str) -> None:
    """Make a placement group. Machines join it when they are deployed, whoever owns them."""
    from vdc.catalog import create_group

    with writing() as session:
        create_group(session, name, policy, actor=actor())
    print_line(f"Group {name} is ready: vdc vm deploy --group {name} ...")
