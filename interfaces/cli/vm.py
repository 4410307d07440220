"""`vdc vm ...`: machines."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.machines import Rows, machines
from interfaces.cli.migration import migrate
from interfaces.cli.output import (
    human_mib,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from interfaces.cli.snapshot import COLUMNS as SNAPSHOT_COLUMNS
from interfaces.cli.snapshot import group as snapshot
from interfaces.cli.snapshot import tree
from vdc.access import actor
from vdc.errors import OperationFailed
from vdc.settings import load

COLUMNS = ("name", "tenant", "state", "host", "vcpu", ("memory_mib", "MEM MIB"), "template", "address", "id")


@click.group()
def group() -> None:
    """Machines: deploy, list, show, migrate, snapshot, terminate."""


group.add_command(migrate)
group.add_command(snapshot)


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--all", "ended", is_flag=True, help="Also machines that failed or are gone.")
@json_option
def list_(tenant: str, ended: bool, as_json: bool) -> None:
    """Machines, by name."""
    _print(machines(tenant=tenant, ended=ended), as_json)


@group.command()
@click.argument("name")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@json_option
def show(name: str, tenant: str, as_json: bool) -> None:
    """One machine, with its snapshots and operations."""
    from interfaces.cli import listings
    from interfaces.cli.session import reading
    from vdc.claims.terminate import find_vm

    with reading() as session:
        vm = find_vm(session, name, tenant)
        operations = listings.operations(session, object_id=vm.id)
        snapshots = listings.snapshots(session, vm.id)
    row = machines(vm_id=vm.id, ended=True)[0] | {"snapshots": snapshots, "operations": operations}
    if as_json:
        print_json(row)
        return
    keys = ("name", "id", "tenant", "state", "desired", "host", "domain", "template", "created_at")
    fields = {key: row[key] for key in keys}
    fields["size"] = f"{row['vcpu']} vCPU, {human_mib(row['memory_mib'])} memory"
    if instance := row["instance"]:
        fields["instance"] = (
            f"{instance['id'] or 'not yet'}, {instance['type']}, {instance['hourly_price']} an hour"
        )
    for nic in row["addresses"]:
        mac = f" ({nic['mac']})" if nic["mac"] else ""
        fields[f"address on {nic['vnet']}"] = f"{nic['address']}{mac}"
    for disk in row["disks"]:
        fields[f"disk in {disk['datastore']}"] = f"{disk['file']}, {human_mib(disk['size_mib'])}"
    print_fields(fields)
    if snapshots:
        print_line()
        print_table(tree(snapshots), SNAPSHOT_COLUMNS)
    print_line()
    print_table(row["operations"], ("kind", "requested_by", "started_at", "finished_at", "outcome", "error"))


@group.command()
@click.option("--template", required=True, help="Name of the template.")
@click.option("--count", type=int, default=1, show_default=True, help="How many machines.")
@click.option("--name", default="", help="Name; with a count above 1, -1, -2, ... is appended.")
@click.option("--tenant", default="default", show_default=True, help="Whose machines they are.")
@click.option("--vcpu", type=int, help="Virtual CPUs, instead of the template's.")
@click.option("--memory-mib", type=int, help="Memory in MiB, instead of the template's.")
@click.option("--disk-mib", type=int, help="Disk in MiB, instead of the template's.")
@click.option(
    "--vnet", "vnets", multiple=True, help="Virtual network, instead of the template's (repeatable)."
)
@click.option(
    "--policy", default="spread", show_default=True, help="spread, pack, load-aware, or a rank expression."
)
@click.option("--group", "group_name", default="", help="Placement group that the machines join.")
@click.option(
    "--start", type=click.Choice(["running", "paused", "stopped"]), default="running", show_default=True
)
@click.option("--atomic", is_flag=True, help="All or none: if one machine fails, take all back.")
@click.option(
    "--burst",
    type=click.Choice(["never", "when-full"]),
    default="never",
    show_default=True,
    help="Whether what our hosts cannot take may run in a cloud.",
)
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def deploy(vnets: tuple[str, ...], group_name: str, only_plan: bool, as_json: bool, **options: Any) -> None:
    """Make machines from a template."""
    from vdc.requests import DeployRequest

    request = DeployRequest(vnets=list(vnets) or None, group=group_name, **options)
    # The plan first: what cannot be is refused at once, without a flow run.
    plan = _plan_deploy(request)
    if only_plan:
        _print_deploy_plan(plan, as_json)
        return

    def load_flow() -> Any:
        from flows.deploy import deploy as flow

        return flow

    _run(load_flow, request, as_json)


@group.command()
@click.argument("vms", nargs=-1, required=True, metavar="NAME...")
@click.option("--tenant", default="", help="Whose machines, where a name is not unique.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def terminate(vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Remove machines for good, with their disks."""
    from interfaces.cli.session import writing
    from vdc.claims.terminate import claim_terminate
    from vdc.requests import TerminateRequest

    request = TerminateRequest(vms=list(vms), tenant=tenant)
    with writing(commit=False) as session:
        specs = [m.spec for m in claim_terminate(session, request, actor=actor()).machines]
    if only_plan:
        rows = [
            {
                "name": s.name,
                "tenant": s.tenant,
                "host": s.host.name,
                "disks": [d.file for d in s.disks],
                "addresses": [n.address for n in s.nics],
            }
            for s in specs
        ]
        if as_json:
            print_json(rows)
            return
        print_line(f"Would terminate {len(rows)} machine{'s' * (len(rows) != 1)}, with their disks:")
        print_table(rows, ("name", "tenant", "host", "disks", "addresses"))
        return

    def load_flow() -> Any:
        from flows.terminate import terminate as flow

        return flow

    _run(load_flow, request, as_json)


def _run(load_flow: Any, request: Any, as_json: bool) -> None:
    from interfaces.cli import listings
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading

    failed: OperationFailed | None = None
    try:
        operation_id = run_flow(load_flow, request)
    except OperationFailed as error:
        failed, operation_id = error, error.operation_id
    with reading() as session:
        children = listings.operations(session, parent_id=operation_id, limit=None)
    rows = machines(batch=operation_id, ended=True)
    errors = {c["object_id"]: c["error"] for c in children}
    for row in rows:
        row["error"] = errors[row["id"]]
    if failed is not None:
        failed.machines = rows
        if not as_json:
            _print(rows, as_json, error=True)
        raise failed
    _print(rows, as_json)


def _print(rows: Rows, as_json: bool, *, error: bool = False) -> None:
    if as_json:
        print_json(rows)
        return
    shown = [row | {"address": [a["address"] for a in row["addresses"]]} for row in rows]
    columns = (*COLUMNS, "error") if error else COLUMNS
    print_table(shown, columns, empty="No machine yet. Make one: vdc vm deploy --template NAME")


def _plan_deploy(request: Any) -> dict[str, Any]:
    from interfaces.cli.session import writing
    from vdc.claims.deploy import claim_deploy

    answers: dict[str, str] = {}
    if request.burst != "never":
        from interfaces.cli.session import reading
        from tasks.cloud_check import ask_clouds
        from vdc.claims.burst import questions

        with reading() as session:
            asked = questions(session, request)
        answers = ask_clouds(asked)
    with writing(commit=False) as session:
        claim = claim_deploy(session, request, actor=actor(), prices=load().prices, clouds=answers)
    assert claim.plan is not None, "a plan adopts nothing"
    return {
        "machines": [
            {
                "name": m.spec.name,
                "tenant": m.spec.tenant,
                "host": m.spec.host.name,
                "vcpu": m.spec.vcpu,
                "memory_mib": m.spec.memory_mib,
                "disk_mib": sum(d.size_mib for d in m.spec.disks),
                "addresses": [{"vnet": n.vnet.name, "address": n.address} for n in m.spec.nics],
            }
            for m in claim.batch.machines
        ],
        "placement": claim.plan.placement,
        "burst": claim.plan.burst,
        "quota_left": claim.plan.quota_left,
        "cost_per_hour": f"{claim.plan.cost_per_hour:.4f}",
        "cost_per_month": str(claim.plan.cost_per_month),
        "currency": claim.plan.currency,
    }


def _print_deploy_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    rows = [m | {"address": [a["address"] for a in m["addresses"]]} for m in plan["machines"]]
    print_line(f"Would make {len(rows)} machine{'s' * (len(rows) != 1)}:")
    print_table(rows, ("name", "host", "vcpu", "memory_mib", "disk_mib", "address"))
    print_line()
    print_line("Hosts:")
    for line in plan["placement"]:
        print_line(f"  {line}")
    for line in plan["burst"]:
        print_line(f"Burst: {line}")
    print_line(f"Quota left: {', '.join(plan['quota_left']) or 'no limit'}")
    print_line(
        f"Cost: {plan['cost_per_hour']} {plan['currency']} an hour, "
        f"{plan['cost_per_month']} {plan['currency']} a month (730 hours)"
    )
    note("Nothing was touched.")
