"""`vdc vm resize`: more or less of CPUs, memory and disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.claims.resize import Resize
    from vdc.pricing import Cost


@click.command()
@click.argument("name")
@click.option("--vcpu", type=int, help="Virtual CPUs.")
@click.option("--memory-mib", type=int, help="Memory in MiB.")
@click.option("--disk-mib", type=int, help="Size of its first disk in MiB; it only grows.")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def resize(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Give a machine more or less; what it cannot take while it runs, it has from its next start on."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading, writing
    from tasks.resize_check import look_at_shape
    from vdc.claims.resize import claim_resize, foresee
    from vdc.plan_costs import resize_cost
    from vdc.requests import ResizeRequest

    if all(options[size] is None for size in ("vcpu", "memory_mib", "disk_mib")):
        raise click.UsageError("Say what is to change: --vcpu, --memory-mib or --disk-mib.")
    request = ResizeRequest(vm=options.pop("name"), **options)
    # The plan first: what cannot be is refused at once, without a flow run.
    with writing(commit=False) as session:
        asked = claim_resize(session, request, actor=actor())
    changes = foresee(asked, look_at_shape(asked.spec))
    if only_plan:
        with reading() as session:
            cost = resize_cost(prices(session), asked, changes)
        _print_plan(asked, changes, cost, as_json)
        return

    def load_flow() -> Any:
        from flows.resize import resize as flow

        return flow

    operation_id = run_flow(load_flow, request)
    from vdc.schema import Operation

    with reading() as session:
        told = session.get_one(Operation, operation_id).result or {}
    if as_json:
        print_json({"name": asked.spec.name, "operation_id": operation_id} | told)
        return
    print_line(f"{asked.spec.name} on {asked.spec.host.name}:")
    _print_changes(told["changes"], ())
    if told["root"]:
        note(f"Its root file system grows at its next boot: {told['root']}.")


def _print_plan(asked: Resize, changes: list[dict[str, Any]], cost: Cost, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "name": asked.spec.name,
                "host": asked.spec.host.name,
                "changes": changes,
                "quota_left": asked.quota_left,
            }
            | cost_keys(cost)
        )
        return
    print_line(f"Would resize {asked.spec.name} on {asked.spec.host.name}:")
    _print_changes(changes, ("why",) if any(row["why"] for row in changes) else ())
    print_line()
    print_line(f"Quota left: {', '.join(asked.quota_left) or 'no limit'}")
    print_cost(cost)
    note("Nothing was touched.")


def _print_changes(changes: list[dict[str, Any]], more: tuple[str, ...]) -> None:
    from vdc.claims.resize import WORDS

    rows = [row | {"what": WORDS[row["what"]]} for row in changes]
    print_table(rows, ("what", "from", "to", "when", *more))
