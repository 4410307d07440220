"""`vdc tenant ...`: tenants."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli import listings
from interfaces.cli.customer import billing
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Tenants."""


group.add_command(billing)


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
@click.option("--time-zone", default="UTC", show_default=True, help="Of its bills: an IANA name.")
def create(name: str, time_zone: str, **limits: int | None) -> None:
    """Make a tenant, with its quota and nothing else; see also `onboard`."""
    from vdc.catalog import create_tenant

    with writing() as session:
        create_tenant(session, name, actor=actor(), time_zone=time_zone, **limits)
    print_line(f"Tenant {name} is ready.")


@group.command()
@click.argument("file", type=click.Path())
@click.option("--plan", "only_plan", is_flag=True, help="Say what would change; change nothing.")
@json_option
def onboard(file: str, only_plan: bool, as_json: bool) -> None:
    """Make a tenant what FILE (YAML) says: quota, first user, private VLAN, template. Again: converge."""
    from pathlib import Path

    from tasks.tenant_file import read_tenant_file
    from vdc.onboarding import onboard as converge
    from vdc.requests import OnboardTenantRequest
    from vdc.settings import load

    file = str(Path(file).absolute())
    settings = load()
    wanted = read_tenant_file(file)
    # The plan first: what cannot be is refused at once, without a flow run.
    with writing(commit=False) as session:
        done = converge(
            session, wanted, uplink=settings.tenant_uplink, vlans=settings.tenant_vlans, actor=actor()
        )
    if not only_plan:
        from interfaces.cli.running import run_flow

        def load_flow() -> Any:
            from flows.onboard_tenant import onboard_tenant

            return onboard_tenant

        done = run_flow(load_flow, OnboardTenantRequest(file=file))
    if as_json:
        values = {k: getattr(done, k) for k in ("tenant", "vnet", "vlan_id", "template", "changes")}
        print_json(values)
        return
    if not done.changes:
        print_line(
            f"Tenant {done.tenant} is as the file says: nothing {'to change' if only_plan else 'changed'}."
        )
        return
    print_line(f"Tenant {done.tenant}, {'would be changed' if only_plan else 'changed'}:")
    for change in done.changes:
        print_line(f"  {change}")
    if not only_plan:
        print_line(f"Next: vdc vm deploy --tenant {done.tenant} --template {done.template}")


@group.command("hash-password")
def hash_password_() -> None:
    """Ask for a password and print its hash, for a tenant's file."""
    from vdc.passwords import hash_password

    print_line(hash_password(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))
