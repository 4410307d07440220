"""`vdc tenant ...`: tenants."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli import listings
from interfaces.cli.customer import billing
from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.errors import OperationFailed, VdcError


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
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option("--welcome", type=click.Path(), default="", help="Directory for the customers' welcome sheets.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would change; change nothing.")
@json_option
def onboard(files: tuple[str, ...], welcome: str, only_plan: bool, as_json: bool) -> None:
    """Make tenants what FILEs (YAML) say: quota, users, private VLAN, template. Again: converge."""
    from pathlib import Path

    from tasks.tenant_file import read_tenant_file
    from tasks.welcome import check_sheets
    from vdc.onboarding import onboard as converge
    from vdc.onboarding import rehearse
    from vdc.settings import load

    settings = load()
    paths = [str(Path(file).absolute()) for file in files]
    sheets = str(Path(welcome).absolute()) if welcome else ""
    check_sheets(sheets)
    wanted = [read_tenant_file(path) for path in paths]
    # The plan first, of all of them: what cannot be is refused at once, without a flow run.
    uplink, vlans = settings.tenant_uplink, settings.tenant_vlans
    with writing(commit=False) as session:
        planned = [converge(session, one, uplink=uplink, vlans=vlans, actor=actor()) for one in wanted]
        for one, plan in zip(wanted, planned, strict=True):
            rehearse(session, one, plan, prices=settings.prices, actor=actor())
    done, failed = (planned, {}) if only_plan else _onboard_each(paths, planned, sheets)
    if as_json and not failed:
        keys = ("tenant", "vnet", "vlan_id", "template", "changes")
        rows = [{key: getattr(one, key) for key in keys} for one in done]
        print_json(rows if len(files) > 1 else rows[0])
    if not as_json:
        for one in done:
            _print_onboarded(one, only_plan)
    if failed:
        said = " ".join(f"Tenant {name}: {error}" for name, error in failed.items())
        raise OperationFailed(f"{said} What was done stays; run it again, and it goes on.", "")


def _onboard_each(paths: list[str], planned: list[Any], sheets: str) -> tuple[list[Any], dict[str, VdcError]]:
    """One tenant's failure does not keep the others."""
    from interfaces.cli.running import run_flow
    from vdc.requests import OnboardTenantRequest

    def load_flow() -> Any:
        from flows.onboard_tenant import onboard_tenant

        return onboard_tenant

    done: list[Any] = []
    failed: dict[str, VdcError] = {}
    for path, plan in zip(paths, planned, strict=True):
        if not plan.changes:
            if sheets:
                _write_welcome(plan.tenant, sheets)
            done.append(plan)
            continue
        try:
            done.append(run_flow(load_flow, OnboardTenantRequest(file=path, welcome=sheets)))
        except VdcError as error:
            if len(paths) == 1:
                raise
            failed[plan.tenant] = error
    return done, failed


@group.command()
@click.argument("name")
@click.option("--out", type=click.Path(), default="", help="Directory for NAME.html and NAME.txt.")
@json_option
def welcome(name: str, out: str, as_json: bool) -> None:
    """What a customer needs to know to begin: accounts, networks, machines, quota, prices; no secrets."""
    from reports.welcome import text

    if out:
        for file in _write_welcome(name, out):
            print_line(file)
        return
    facts = _welcome_facts(name)
    if as_json:
        print_json(facts)
    else:
        print_line(text(facts).rstrip())


def _welcome_facts(tenant: str) -> dict[str, Any]:
    from vdc.settings import load
    from vdc.welcome import read_welcome

    with reading() as session:
        return read_welcome(session, tenant, load())


def _write_welcome(tenant: str, directory: str) -> list[str]:
    from tasks.welcome import check_sheets, write_sheets

    check_sheets(directory)
    return write_sheets(_welcome_facts(tenant), directory)


def _print_onboarded(done: Any, only_plan: bool) -> None:
    if not done.changes:
        print_line(
            f"Tenant {done.tenant} is as the file says: nothing {'to change' if only_plan else 'changed'}."
        )
        return
    print_line(f"Tenant {done.tenant}, {'would be changed' if only_plan else 'changed'}:")
    for change in done.changes:
        print_line(f"  {change if only_plan else change.replace(' to be ', ' ')}")
    if not only_plan and not done.machines:
        print_line(f"Next: vdc vm deploy --tenant {done.tenant} --template {done.template}")


@group.command()
@click.argument("name")
@click.option("--export", required=True, type=click.Path(), help="Directory for the tenant's data.")
@click.option("--with-machines", is_flag=True, help="Its machines go too, with their disks.")
@click.option("--with-disks", is_flag=True, help="Export its disks too, as qcow2; its machines are off.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would be removed; touch nothing.")
@json_option
def offboard(
    name: str, export: str, with_machines: bool, with_disks: bool, only_plan: bool, as_json: bool
) -> None:
    """Remove a tenant: export its data, remove what it has, erase what is personal, keep its bills."""
    from pathlib import Path

    from tasks.export_directory import check_directory, read_room
    from vdc.offboarding import claim_offboard
    from vdc.plan_costs import tenant_end_cost
    from vdc.requests import OffboardTenantRequest

    directory = Path(export).absolute()
    request = OffboardTenantRequest(
        tenant=name, export=str(directory), with_machines=with_machines, with_disks=with_disks
    )
    check_directory(directory, name)
    with writing(commit=False) as session:
        asked = claim_offboard(session, request, read_room(directory), actor=actor())
        cost = tenant_end_cost(prices(session), asked.tenant_id)
    what = {key: getattr(asked, key) for key in ("disks", "images", "users", "templates", "vnets")}
    plan = {"tenant": name, "export": str(directory), "machines": [vm for _, vm in asked.machines], **what}
    disks = [
        {"machine": d.machine, "disk": d.name, "size_mib": d.source.size_mib, "file": d.file}
        for d in asked.exported_disks
    ]
    if only_plan:
        if as_json:
            print_json(plan | {"exported_disks": disks} | cost_keys(cost))
            return
        print_line(f"Would export the data of tenant {name} to {directory}, and remove:")
        _print_removed(plan)
        if with_disks:
            most_mib = sum(disk["size_mib"] for disk in disks)
            print_line(f"Before that {len(disks)} disks would be exported, {most_mib} MiB at most:")
            print_table(disks, ("machine", "disk", "size_mib", "file"), empty="It has none.")
        print_cost(cost)
        note("Nothing was touched.")
        return
    from interfaces.cli.running import run_flow

    def load_flow() -> Any:
        from flows.offboard_tenant import offboard_tenant

        return offboard_tenant

    done = run_flow(load_flow, request)
    if as_json:
        print_json(done)
        return
    also = f", {len(disks)} disks among it" if with_disks else ""
    print_line(f"Tenant {name} is gone; its data is in {directory}{also}. Removed:")
    _print_removed(plan)
    kept = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in done.kept.items())
    print_line(f"Nothing else of it is left. Kept, without names of persons: {kept or 'nothing'}.")


def _print_removed(plan: dict[str, Any]) -> None:
    for what in ("machines", "disks", "images", "templates", "vnets", "users"):
        print_line(f"  {what}: {', '.join(plan[what]) or 'none'}")


@group.command("hash-password")
def hash_password_() -> None:
    """Ask for a password and print its hash, for a tenant's file."""
    from vdc.passwords import hash_password

    print_line(hash_password(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)))
