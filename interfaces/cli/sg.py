"""`vdc sg ...`: security groups, what machines may be connected from and to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from interfaces.cli.session import own_tenant, reading, writing
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.claims.security import Filtering
    from vdc.pricing import Cost

FREE = "Security groups are not charged."

_tenant = click.option("--tenant", default="", help="Whose group; default: your own tenant, or `default`.")
_plan = click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")


@click.group()
def sg() -> None:
    """Security groups: rules for the machines that are in them."""


@sg.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Security groups, with how many machines are in each."""
    from vdc.security_groups import listing

    with reading() as session:
        rows = listing(session, tenant)
    if as_json:
        print_json(rows)
        return
    shown = [row | {"rules": len(row["rules"])} for row in rows]
    print_table(shown, ("name", "tenant", "rules", "vms"), empty="No security group yet.")


@sg.command()
@click.argument("name")
@_tenant
@json_option
def show(name: str, tenant: str, as_json: bool) -> None:
    """A group's rules, and the machines in it."""
    from vdc.security_groups import describe, find_group, members_of, rules_in

    with reading() as session:
        group = find_group(session, name, tenant or own_tenant())
        rules = [describe(rule) for rule in rules_in(group)]
        vms = [vm.name for vm in members_of(session, group.id)]
    if as_json:
        print_json({"id": group.id, "name": group.name, "rules": rules, "vms": vms})
        return
    for rule in rules or ["no rule: nothing is let through"]:
        print_line(rule)
    print_line(f"Machines: {', '.join(vms) or 'none'}")


@sg.command()
@click.argument("name")
@_tenant
@click.option("--closed", is_flag=True, help="Without the rule that lets machines connect to everywhere.")
def create(name: str, tenant: str, closed: bool) -> None:
    """Make a group. Its machines may connect to everywhere; who may connect to them, rules say."""
    from vdc.security_groups import ALL_OUT, create_group

    with writing() as session:
        create_group(session, name, tenant or own_tenant(), () if closed else (ALL_OUT,), actor=actor())
    print_line(f"Security group {name} is ready: vdc sg add-rule {name} in tcp 22")


@sg.command()
@click.argument("name")
@_tenant
def delete(name: str, tenant: str) -> None:
    """Remove a group that no machine is in."""
    from vdc.security_groups import delete_group

    with writing() as session:
        delete_group(session, name, tenant or own_tenant(), actor=actor())
    print_line(f"Security group {name} is gone.")


def _rule(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        json_option,
        _plan,
        _tenant,
        click.option("--peer", default="", metavar="GROUP", help="The other side: the machines of GROUP."),
        click.option("--cidr", default="0.0.0.0/0", help="Where the other side is; default: everywhere."),
        click.argument("ports", default=""),
        click.argument("protocol", type=click.Choice(["tcp", "udp", "icmp", "any"])),
        click.argument("direction", type=click.Choice(["in", "out"])),
        click.argument("group"),
    ):
        command = option(command)
    return command


@sg.command("add-rule")
@_rule
def add_rule(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Let connections through: DIRECTION is who begins them, `in` others, `out` the machine.

    PORTS is one port or a range such as 8000-8080; without it all. It is in force at once on all machines of
    the group that run.
    """
    _change("add", options, only_plan, as_json)


@sg.command("remove-rule")
@_rule
def remove_rule(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Let new connections through no longer; those that there are go on. It is named as it was added."""
    _change("remove", options, only_plan, as_json)


@sg.command()
@click.argument("group")
@click.argument("vms", nargs=-1, required=True)
@_tenant
@_plan
@json_option
def assign(group: str, vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Put machines into a group. From then on what no group of theirs lets through is held back."""
    _assign("assign", group, vms, tenant, only_plan, as_json)


@sg.command()
@click.argument("group")
@click.argument("vms", nargs=-1, required=True)
@_tenant
@_plan
@json_option
def unassign(group: str, vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Take machines out of a group. One that is in none is not filtered."""
    _assign("unassign", group, vms, tenant, only_plan, as_json)


def _change(verb: str, options: dict[str, Any], only_plan: bool, as_json: bool) -> None:
    from vdc.claims.security import claim_change
    from vdc.requests import ChangeGroupRequest

    request = ChangeGroupRequest(verb=verb, **options | {"tenant": options["tenant"] or own_tenant()})
    with writing(commit=False) as session:
        asked = claim_change(session, request, actor=actor())
        cost = prices(session).free(FREE)

    def load_flow() -> Any:
        from flows.security import change_group as flow

        return flow

    _go(load_flow, request, asked, cost if only_plan else None, as_json)


def _assign(verb: str, group: str, vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    from tasks.abilities import abilities
    from vdc.claims.security import claim_assign
    from vdc.requests import AssignGroupsRequest

    request = AssignGroupsRequest(verb=verb, groups=[group], vms=list(vms), tenant=tenant)
    can = abilities()
    with writing(commit=False) as session:
        asked = claim_assign(session, request, can, actor=actor())
        cost = prices(session).free(FREE)

    def load_flow() -> Any:
        from flows.security import assign_groups as flow

        return flow

    _go(load_flow, request, asked, cost if only_plan else None, as_json)


def _go(
    load_flow: Callable[[], Any], request: Any, asked: Filtering, cost: Cost | None, as_json: bool
) -> None:
    """Print the plan, which has a cost, or run the flow. What cannot be was refused by now."""
    machines = [machine.spec.name for machine in asked.batch.machines]
    now = sorted(m.spec.name for m in asked.batch.machines if m.spec.vm_id in asked.running)
    told: dict[str, Any] = {"machines": machines, "at_once": now}
    if cost is not None:
        if as_json:
            print_json(told | cost_keys(cost))
            return
        print_line(f"Machines whose rules would change: {', '.join(machines) or 'none'}")
        print_line(f"At once, as they run: {', '.join(now) or 'none'}")
        print_cost(cost)
        note("Nothing was touched.")
        return
    from interfaces.cli.running import run_flow

    operation_id = run_flow(load_flow, request)
    if as_json:
        print_json({"operation_id": operation_id} | told)
        return
    print_line(f"In force on {', '.join(now)}." if now else "No machine that runs is in it.")
