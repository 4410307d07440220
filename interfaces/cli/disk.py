"""`vdc disk ...`: disks that are attached to machines, or kept."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import human_mib, json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from vdc.access import actor


@click.group()
def group() -> None:
    """Disks that were attached to machines: list them, remove those that are kept."""


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Disks that can be detached, or are kept, by name."""
    from interfaces.cli import listings
    from interfaces.cli.session import reading

    with reading() as session:
        rows = listings.volumes(session, tenant)
    if as_json:
        print_json(rows)
        return
    columns = ("name", "tenant", "state", "vm", "size_mib", "datastore", "created_at")
    print_table(rows, columns, empty="No disk yet. Make one: vdc vm disk attach VM --size 4G --name data")


@group.command()
@click.argument("name")
@click.option("--tenant", default="", help="Whose disk it is; none given: yours, else `default`.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def remove(name: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Remove a kept disk for good, with what is on it."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import own_tenant, writing
    from vdc.claims.volumes import claim_remove
    from vdc.plan_costs import volume_end_cost
    from vdc.requests import RemoveDiskRequest
    from vdc.schema import Volume

    tenant = tenant or own_tenant()
    request = RemoveDiskRequest(disk=name, tenant=tenant)
    with writing(commit=False) as session:
        asked = claim_remove(session, request, actor=actor())
        volume = session.get_one(Volume, asked.volume_id)
        size_mib, cost = volume.size_mib, volume_end_cost(prices(session), volume)
    told = {"name": asked.name, "tenant": tenant, "file": asked.file, "size_mib": size_mib}
    if only_plan:
        if as_json:
            print_json(told | {"host": asked.target.host.name} | cost_keys(cost))
            return
        print_line(f"Would remove disk {asked.name} ({human_mib(size_mib)}) of tenant {tenant} for good.")
        print_cost(cost)
        note("Nothing was touched.")
        return

    def load_flow() -> Any:
        from flows.attach import remove_disk as flow

        return flow

    operation_id = run_flow(load_flow, request)
    if as_json:
        print_json(told | {"operation_id": operation_id})
        return
    print_line(f"Disk {asked.name} ({human_mib(size_mib)}) of tenant {tenant} is removed.")
