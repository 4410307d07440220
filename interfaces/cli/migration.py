"""`vdc vm migrate`: a running machine to another host."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line
from vdc.access import actor


@click.command()
@click.argument("name")
@click.option("--to", default="", help="Host to go to; none given: the best one.")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def migrate(name: str, to: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Move a running machine to another host; it goes on running."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading, writing
    from tasks.abilities import abilities
    from vdc.claims.migrate import claim_migrate
    from vdc.requests import MigrateRequest

    request = MigrateRequest(vm=name, tenant=tenant, to=to)
    # The plan first: what cannot be is refused at once, without a flow run.
    with reading():
        can = abilities()
    with writing(commit=False) as session:
        move = claim_migrate(session, request, can, actor=actor())
    if only_plan:
        _print_plan(
            {
                "name": move.spec.name,
                "from": move.spec.host.name,
                "to": move.target.name,
                "placement": move.said,
            },
            as_json,
        )
        return

    def load_flow() -> Any:
        from flows.migrate import migrate as flow

        return flow

    _print_result(run_flow(load_flow, request), as_json)


def _print_plan(plan: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(plan)
        return
    print_line(f"Would migrate {plan['name']} from {plan['from']} to {plan['to']}.")
    print_line("Hosts:")
    for line in plan["placement"]:
        print_line(f"  {line}")
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
    print_line(
        f"{name} went from {told['from']} to {told['to']} in {_seconds(told['total_s'])}; "
        f"it stood still for {_seconds(told['downtime_s'])}."
    )


def _seconds(value: float | None) -> str:
    return "an unknown time" if value is None else f"{value:.3g} s"
