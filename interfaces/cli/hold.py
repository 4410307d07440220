"""`vdc vm hold`, `release`, `rename`, `give`, `protect`, `unprotect`: what is said in the inventory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line
from interfaces.cli.plan_cost import cost_keys, prices, print_batch_plan, print_cost
from interfaces.cli.power import names_argument, plan_option, tenant_option
from vdc.access import actor

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def _say(changed: dict[str, str], said: str, as_json: bool) -> None:
    if as_json:
        from interfaces.cli.machines import machines

        print_json([row for row in machines() if row["id"] in changed])
        return
    for name in changed.values():
        print_line(f"{name} {said}.")


@click.command()
@names_argument
@click.option("--until", default="", metavar="TIME", help="Release them then: 2026-12-01T06:00Z.")
@tenant_option
@plan_option
@json_option
def hold(vms: tuple[str, ...], until: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Let nothing start machines that are stopped; or say anew until when they are on hold."""
    from interfaces.cli.session import writing
    from vdc.claims.hold import hold as hold_machines
    from vdc.claims.hold import instant
    from vdc.claims.power import chosen
    from vdc.plan_costs import marking_costs
    from vdc.requests import MachinesRequest
    from vdc.usage_levels import vm_levels

    at = instant(until) if until else None
    with writing(commit=not only_plan) as session:
        was = vm_levels(session, [vm.id for vm in chosen(session, list(vms), tenant)]) if only_plan else {}
        held = hold_machines(session, MachinesRequest(vms=list(vms), tenant=tenant), at, actor=actor())
        costs = marking_costs(prices(session), list(held), was) if only_plan else []
        rows = [_row(session, vm_id) for vm_id in held] if only_plan else []
    if only_plan:
        becomes = {"becomes": "held", "hold_until": at}
        columns = ("becomes", "hold_until")
        print_batch_plan("Would hold", [row | becomes for row in rows], costs, as_json, columns=columns)
        return
    _say(held, f"is on hold{f' until {at:%Y-%m-%d %H:%M %Z}' if at else ''}", as_json)


@click.command()
@names_argument
@tenant_option
@plan_option
@json_option
def release(vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Make machines that were deployed on hold; those that were stopped may be started again."""
    from interfaces.cli.batch import run_batch
    from interfaces.cli.session import writing
    from vdc.claims.hold import claim_release
    from vdc.claims.power import chosen
    from vdc.plan_costs import marking_costs, release_costs
    from vdc.requests import MachinesRequest
    from vdc.usage_levels import vm_levels

    request = MachinesRequest(vms=list(vms), tenant=tenant)
    with writing(commit=False) as session:
        vms_now = chosen(session, request.vms, tenant)
        was = vm_levels(session, [vm.id for vm in vms_now])
        claim = claim_release(session, request, actor=actor())
        made = [m.spec.vm_id for m in claim.batch.machines]
        off = [vm.id for vm in vms_now if vm.id not in made]
        costs = release_costs(prices(session), claim) + marking_costs(prices(session), off, was)
        rows = [_row(session, vm_id) | {"becomes": "deployed"} for vm_id in made]
        rows += [_row(session, vm_id) | {"becomes": "stopped"} for vm_id in off]
    if only_plan:
        print_batch_plan("Would release", rows, costs, as_json, columns=("becomes",))
        return

    def load_flow() -> Any:
        from flows.release import release as flow

        return flow

    run_batch(load_flow, request, as_json)


def _tell_router(vnet: str) -> None:
    """By which name a machine is found there."""
    from interfaces.cli.running import run_flow
    from vdc.requests import TellRouterRequest

    def load_flow() -> Any:
        from flows.router import tell_router as flow

        return flow

    run_flow(load_flow, TellRouterRequest(vnet=vnet))


@click.command()
@click.argument("name")
@click.argument("new")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@json_option
def rename(name: str, new: str, tenant: str, as_json: bool) -> None:
    """Call machine NAME from now on NEW. The guest keeps its hostname."""
    from interfaces.cli.engine import use_prefect
    from interfaces.cli.session import reading, writing
    from vdc.claims.marks import rename as rename_machine
    from vdc.claims.terminate import find_vm
    from vdc.routers import routed_networks_of

    with reading() as session:
        routed = routed_networks_of(session, find_vm(session, name, tenant).id)
    if routed:
        use_prefect()
    with writing() as session:
        rename_machine(session, name, new, tenant, actor=actor())
    for vnet in routed:
        _tell_router(vnet)
    if as_json:
        print_json({"from": name, "to": new})
        return
    print_line(f"{name} is called {new} now; its guest keeps its hostname.")


@click.command()
@click.argument("name")
@click.argument("to")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@plan_option
@json_option
def give(name: str, to: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Make machine NAME tenant TO's, who pays for it from now on. On its host nothing changes."""
    from interfaces.cli.session import writing
    from vdc.claims.giving import give as give_machine

    if only_plan:
        _plan_giving(name, to, tenant, as_json)
        return
    with writing() as session:
        give_machine(session, name, to, tenant, actor=actor())
    if as_json:
        print_json({"name": name, "to": to})
        return
    print_line(f"{name} is tenant {to}'s now, who pays for it from now on.")


def _plan_giving(name: str, to: str, tenant: str, as_json: bool) -> None:
    """Of the one who has the machine and of the one who gets it, by the tariff of each."""
    from interfaces.cli.session import writing
    from vdc.claims.giving import give as give_machine
    from vdc.claims.terminate import find_vm
    from vdc.plan_costs import giving_costs
    from vdc.schema import Tenant
    from vdc.usage_levels import vm_levels

    with writing(commit=False) as session:
        vm = find_vm(session, name, tenant)
        giver, was = session.get_one(Tenant, vm.tenant_id), vm_levels(session, [vm.id]).get(vm.id)
        costs = giving_costs(
            prices(session), giver.id, give_machine(session, name, to, tenant, actor=actor()), was
        )
        tenants = (giver.name, to)
    if as_json:
        whose = zip(tenants, costs, strict=True)
        print_json([{"name": name, "to": to, "tenant": whom} | cost_keys(cost) for whom, cost in whose])
        return
    print_line(f"Would make {name} tenant {to}'s; on its host nothing changes.")
    for whom, cost in zip(tenants, costs, strict=True):
        print_cost(cost, f"Cost for tenant {whom}")
    note("Nothing was touched.")


def _row(session: Session, vm_id: str) -> dict[str, Any]:
    from vdc import specs
    from vdc.schema import Vm

    spec = specs.load(session.get_one(Vm, vm_id).spec)
    return {"name": spec.name, "tenant": spec.tenant, "host": spec.host.name}


def _protecting(verb: str, protected: bool, text: str, said: str) -> click.Command:
    @click.command(verb, help=text)
    @names_argument
    @tenant_option
    @json_option
    def command(vms: tuple[str, ...], tenant: str, as_json: bool) -> None:
        from interfaces.cli.session import writing
        from vdc.claims.marks import protect
        from vdc.requests import MachinesRequest

        request = MachinesRequest(vms=list(vms), tenant=tenant)
        with writing() as session:
            changed = protect(session, request, protected=protected, actor=actor())
        _say(changed, said, as_json)

    return command


COMMANDS = [
    hold,
    release,
    rename,
    give,
    _protecting("protect", True, "Refuse to terminate machines.", "is protected against deletion"),
    _protecting("unprotect", False, "Let machines be terminated again.", "may be deleted"),
]
