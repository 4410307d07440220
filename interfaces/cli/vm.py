"""`vdc vm ...`: machines."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from interfaces.cli import attach, hold, power, screen
from interfaces.cli.batch import print_machines, run_batch, state_of
from interfaces.cli.machines import machines
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
from interfaces.cli.plan_cost import cost_keys, prices, print_batch_plan, print_cost
from interfaces.cli.resize import resize
from interfaces.cli.saving import save_as
from interfaces.cli.snapshot import COLUMNS as SNAPSHOT_COLUMNS
from interfaces.cli.snapshot import group as snapshot
from interfaces.cli.snapshot import tree
from vdc.access import actor
from vdc.settings import load


@click.group()
def group() -> None:
    """Machines: deploy, list, show, start, stop, migrate, resize, terminate, and what else can be done."""


group.add_command(migrate)
group.add_command(resize)
for command in (*power.COMMANDS, *hold.COMMANDS, *screen.COMMANDS):
    group.add_command(command)
group.add_command(attach.disk)
group.add_command(attach.nic)
group.add_command(snapshot)
group.add_command(save_as)


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--all", "ended", is_flag=True, help="Also machines that failed or are gone.")
@json_option
def list_(tenant: str, ended: bool, as_json: bool) -> None:
    """Machines, by name."""
    print_machines(machines(tenant=tenant, ended=ended), as_json)


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
    fields = {key: row[key] for key in keys} | {"state": state_of(row)}
    if row["protected"]:
        fields["protected"] = "against deletion"
    fields["size"] = f"{row['vcpu']} vCPU, {human_mib(row['memory_mib'])} memory"
    if row["next_vcpu"] or row["next_memory_mib"]:
        vcpu, memory_mib = row["next_vcpu"] or row["vcpu"], row["next_memory_mib"] or row["memory_mib"]
        fields["from its next start on"] = f"{vcpu} vCPU, {human_mib(memory_mib)} memory"
    if instance := row["instance"]:
        fields["instance"] = (
            f"{instance['id'] or 'not yet'}, {instance['type']}, {instance['hourly_price']} an hour"
        )
    for nic in row["addresses"]:
        mac = f" ({nic['mac']})" if nic["mac"] else ""
        fields[f"address on {nic['vnet']}"] = f"{nic['address']}{mac}"
    for disk in row["disks"]:
        fields[f"disk {disk['name']}"] = (
            f"{human_mib(disk['size_mib'])}, {disk['file']} in {disk['datastore']}"
        )
    if row["isos"]:
        fields["ISO images"] = ", ".join(row["isos"])
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
@click.option("--tenant", help="Whose machines they are; none: the own tenant's, of the site: default.")
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
@click.option("--sg", "security_groups", multiple=True, help="Security group they are in; may be repeated.")
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
@click.option("--context", type=click.Path(), default="", help="File (YAML) with what they are told besides.")
@click.option("--hold", is_flag=True, help="Take the place now; make the machines when they are released.")
@click.option("--at", default="", metavar="TIME", help="As --hold, released at TIME: 2026-12-01T06:00Z.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def deploy(
    vnets: tuple[str, ...],
    tenant: str | None,
    group_name: str,
    only_plan: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make machines from a template."""
    from interfaces.cli.session import own_tenant
    from vdc.requests import DeployRequest

    whose = tenant or own_tenant()
    if options["context"]:
        options["context"] = str(Path(options["context"]).absolute())
    request = DeployRequest(vnets=list(vnets) or None, tenant=whose, group=group_name, **options)
    # The plan first: what cannot be is refused at once, without a flow run.
    plan = _plan_deploy(request)
    if only_plan:
        _print_deploy_plan(plan, as_json)
        return

    def load_flow() -> Any:
        from flows.deploy import deploy as flow

        return flow

    run_batch(load_flow, request, as_json)


@group.command()
@click.argument("vms", nargs=-1, required=True, metavar="NAME...")
@click.option("--tenant", default="", help="Whose machines, where a name is not unique.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def terminate(vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Remove machines for good, with their disks."""
    from interfaces.cli.session import writing
    from vdc.claims.terminate import claim_terminate
    from vdc.plan_costs import ending_costs
    from vdc.requests import TerminateRequest

    request = TerminateRequest(vms=list(vms), tenant=tenant)
    with writing(commit=False) as session:
        specs = [m.spec for m in claim_terminate(session, request, actor=actor()).machines]
        costs = ending_costs(prices(session), [s.vm_id for s in specs]) if only_plan else []
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
        columns = ("disks", "addresses")
        print_batch_plan("Would terminate", rows, costs, as_json, columns=columns, such=", with their disks")
        return

    def load_flow() -> Any:
        from flows.terminate import terminate as flow

        return flow

    run_batch(load_flow, request, as_json)


def _plan_deploy(request: Any) -> dict[str, Any]:
    from interfaces.cli.session import reading, writing
    from vdc.claims.context import has_templates
    from vdc.claims.deploy import claim_deploy
    from vdc.rendering import Renderer

    can = None
    if request.security_groups:
        from tasks.abilities import abilities

        can = abilities()
    context = None
    if request.context:
        from tasks.context_file import read_context_file

        context = read_context_file(request.context, "the machines")
    answers: dict[str, str] = {}
    if request.burst != "never":
        from tasks.cloud_check import ask_clouds
        from vdc.claims.burst import questions

        with reading() as session:
            asked = questions(session, request)
        answers = ask_clouds(asked)
    with reading() as session:
        templated = has_templates(session, request, context or {})
    # Begun before, so that nobody waits for it while we hold the right to write.
    with Renderer() if templated else nullcontext() as renderer, writing(commit=False) as session:
        claim = claim_deploy(
            session,
            request,
            actor=actor(),
            prices=load().prices,
            clouds=answers,
            abilities=can,
            context=context,
            renderer=renderer,
        )
    assert claim.plan is not None, "a plan adopts nothing"
    return {
        "machines": [
            {
                "name": spec.name,
                "tenant": spec.tenant,
                "host": spec.host.name,
                "vcpu": spec.vcpu,
                "memory_mib": spec.memory_mib,
                "disk_mib": sum(d.size_mib for d in spec.disks),
                "addresses": [{"vnet": n.vnet.name, "address": n.address} for n in spec.nics],
            }
            for spec in claim.claimed
        ],
        "hold": request.hold or bool(request.at),
        "hold_until": request.at or None,
        "placement": claim.plan.placement,
        "burst": claim.plan.burst,
        "quota_left": claim.plan.quota_left,
        "cost": claim.plan.cost,
    }


def _print_deploy_plan(plan: dict[str, Any], as_json: bool) -> None:
    cost = plan.pop("cost")
    if as_json:
        print_json(plan | cost_keys(cost))
        return
    rows = [m | {"address": [a["address"] for a in m["addresses"]]} for m in plan["machines"]]
    kept = f", on hold until {plan['hold_until'] or 'it is released'}" if plan["hold"] else ""
    print_line(f"Would make {len(rows)} machine{'s' * (len(rows) != 1)}{kept}:")
    print_table(rows, ("name", "host", "vcpu", "memory_mib", "disk_mib", "address"))
    print_line()
    print_line("Hosts:")
    for line in plan["placement"]:
        print_line(f"  {line}")
    for line in plan["burst"]:
        print_line(f"Burst: {line}")
    print_line(f"Quota left: {', '.join(plan['quota_left']) or 'no limit'}")
    print_cost(cost)
    note("Nothing was touched.")
