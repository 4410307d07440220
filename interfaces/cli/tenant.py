"""`vdc tenant ...`: tenants."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Tenants."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Tenants, with what they use of their quota."""
    with reading() as session:
        rows = listings.tenants(session)
    if as_json:
        print_json(rows)
        return
    shown = [
        {
            "name": row["name"],
            **{
                key: f"{row[key]} of {row[f'max_{key}']}" if row[f"max_{key}"] is not None else str(row[key])
                for key in ("vms", "vcpu", "memory_mib", "disk_mib")
            },
        }
        for row in rows
    ]
    print_table(shown, ("name", "vms", "vcpu", "memory_mib", "disk_mib"))


@group.command()
@click.argument("name")
@click.option("--max-vms", type=int, help="Machines; none: no limit.")
@click.option("--max-vcpu", type=int)
@click.option("--max-memory-mib", type=int)
@click.option("--max-disk-mib", type=int)
def create(name: str, **limits: int | None) -> None:
    """Make a tenant, with its quota."""
    from vdc.catalog import create_tenant

    with writing() as session:
        create_tenant(session, name, actor=actor(), **limits)
    print_line(f"Tenant {name} is ready.")
