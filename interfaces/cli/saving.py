"""`vdc vm save-as`, and what it has in common with `vdc image clone`: new images of what is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import human_mib, json_option, note, print_json, print_line
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.claims.saving import SavingClaim
    from vdc.pricing import Cost


@click.command("save-as")
@click.argument("name")
@click.argument("image")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def save_as(name: str, image: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Make a new IMAGE of a machine's disk; the machine, running or stopped, stays as it is."""
    from interfaces.cli.session import reading, writing
    from tasks.abilities import abilities
    from vdc.claims.saving import claim_save
    from vdc.plan_costs import saving_cost
    from vdc.requests import SaveAsRequest

    request = SaveAsRequest(vm=name, image=image, tenant=tenant)
    with reading():
        can = abilities()
    with writing(commit=False) as session:
        asked = claim_save(session, request, can, actor=actor())
        cost = saving_cost(prices(session), asked) if only_plan else None
    how = (
        "It runs: its disk is as after a power cut, or frozen for that moment if the guest's agent answers."
        if asked.snapshot
        else "It is stopped."
    )

    def load_flow() -> Any:
        from flows.save_image import save_as as flow

        return flow

    plan_or_run(load_flow, request, asked, [how], cost, as_json)


def plan_or_run(
    load_flow: Callable[[], Any],
    request: Any,
    asked: SavingClaim,
    said: list[str],
    cost: Cost | None,
    as_json: bool,
) -> None:
    """Say what would be made, where there is a cost of it; else make it and say what was."""
    made = asked.made
    if cost is not None:
        if as_json:
            facts = {"format": made.image.format, "virtual_size_mib": made.image.virtual_size_mib}
            print_json({"image": made.name, "host": made.target.host.name} | facts | cost_keys(cost))
            return
        size = human_mib(made.image.virtual_size_mib)
        print_line(
            f"Would make image {made.name} of {asked.source_name}, on {made.target.host.name}: "
            f"{made.image.format}, {size} virtual, needing no other file."
        )
        for line in said:
            print_line(line)
        print_cost(cost)
        note("Nothing was touched.")
        return
    from interfaces.cli import listings
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading

    run_flow(load_flow, request)
    with reading() as session:
        row = next(r for r in listings.images(session) if r["name"] == made.name)
    if as_json:
        print_json(row)
        return
    whose = "published" if row["published"] else f"for tenant {row['tenant']} alone"
    print_line(
        f"Image {made.name} is ready, {whose}: {row['format']}, {human_mib(row['virtual_size_mib'])} "
        f"virtual, {human_mib(row['size_mib'])} stored in {row['datastore']}, sha256 {row['sha256']}."
    )
