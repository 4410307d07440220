"""`vdc vm migrate`: a machine to another host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.pricing import Cost


@click.command()
@click.argument("name")
@click.option("--to", default="", help="Host to go to; none given: the best one.")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@click.option("--with-storage", is_flag=True, help="Take disks along that each host has for itself.")
@click.option("--cold", is_flag=True, help="Stop it, move it, start it there.")
@click.option("--timeout-s", type=float, default=60.0, help="How long its guest has to shut down (60).")
@click.option("--bandwidth-mib-s", type=int, help="At most this much network; none given: all there is.")
@click.option("--max-downtime-ms", type=int, help="How long it may stand still at the end (QEMU: 300).")
@click.option("--auto-converge", is_flag=True, help="Slow it down where it writes faster than is sent.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def migrate(name: str, only_plan: bool, as_json: bool, **options: Any) -> None:
    """Move a machine to another host: it goes on running, or stays stopped."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading, writing
    from tasks.abilities import abilities
    from vdc.claims.migrate import claim_migrate
    from vdc.plan_costs import moving_costs
    from vdc.requests import MigrateRequest

    request = MigrateRequest(vm=name, **options)
    # The plan first: what cannot be is refused at once, without a flow run.
    with reading():
        can = abilities()
    with writing(commit=False) as session:
        move = claim_migrate(session, request, can, actor=actor())
        cost = moving_costs(prices(session), [move.spec])[0]
    if only_plan:
        _print_plan(
            {
                "name": move.spec.name,
                "from": move.spec.host.name,
                "to": move.target.name,
                "cold": move.cold,
                "restarts": move.restart,
                "placement": move.said,
            },
            cost,
            as_json,
        )
        return

    def load_flow() -> Any:
        from flows.migrate import migrate as flow

        return flow

    _print_result(run_flow(load_flow, request), as_json)


def _print_plan(plan: dict[str, Any], cost: Cost, as_json: bool) -> None:
    if as_json:
        print_json(plan | cost_keys(cost))
        return
    how = "it is stopped, and stays so" if plan["cold"] else "it goes on running"
    if plan["restarts"]:
        how = "it is stopped, and started there"
    print_line(f"Would migrate {plan['name']} from {plan['from']} to {plan['to']}: {how}.")
    print_line("Hosts:")
    for line in plan["placement"]:
        print_line(f"  {line}")
    print_cost(cost)
    note("Nothing was touched.")


def _print_result(operation_id: str, as_json: bool) -> None:
    from interfaces.cli.session import reading
    from vdc.schema import Operation

    with reading() as session:
        operation = session.get_one(Operation, operation_id)
        name, told = operation.object.partition("/")[2], operation.result or {}
    if as_json:
        print_json({"name": name, "operation_id": operation_id} | told)
        return
    if told.get("restarted"):
        print_line(
            f"{name} went from {told['from']} to {told['to']} and runs there; "
            f"it was off for {_seconds(told['downtime_s'])}."
        )
        return
    if told["cold"]:
        print_line(f"{name} went from {told['from']} to {told['to']}; it is stopped.")
        return
    print_line(
        f"{name} went from {told['from']} to {told['to']} in {_seconds(told['total_s'])}; "
        f"it stood still for {_seconds(told['downtime_s'])}."
    )


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.3g} s"
