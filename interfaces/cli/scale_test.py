"""`vdc scale-test ...`: how fast machines are made and removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, print_cost
from vdc.access import actor
from vdc.errors import OperationFailed
from vdc.settings import load

COLUMNS = ("figure", "side", "unit", "median", "min", "max", "n")


@click.group()
def group() -> None:
    """How fast machines are made and removed, against a bare loop of libvirt calls."""


@group.command()
@click.option("--template", required=True, help="Name of the template.")
@click.option("--count", type=int, default=40, show_default=True, help="How many machines at a time.")
@click.option(
    "--repetitions", type=int, default=3, show_default=True, help="How often, in turn with the floor."
)
@click.option(
    "--start",
    type=click.Choice(["running", "paused"]),
    default="paused",
    show_default=True,
    help="paused: a guest's own boot takes no CPU from what is measured.",
)
@click.option("--floor/--no-floor", default=True, show_default=True, help="Also measure the bare loop.")
@click.option("--tenant", default="default", show_default=True, help="Whose machines they are.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where frames and page go.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def run(out: Path | None, only_plan: bool, as_json: bool, **options: Any) -> None:
    """Make and remove machines, in turn with the bare loop; none stays."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading, writing
    from vdc.claims.scale_test import claim_scale_test
    from vdc.requests import ScaleTestRequest
    from vdc.schema import Operation

    request = ScaleTestRequest(out=str(out.resolve()) if out else "", **options)
    # The plan first: what cannot be is refused at once, without a flow run.
    settings = load()
    with writing(commit=False) as session:
        test = claim_scale_test(session, request, actor=actor(), prices=settings.prices)
    if only_plan:
        _print_plan(test, settings.per_host_concurrency, as_json)
        return

    def load_flow() -> Any:
        from flows.scale_test import scale_test as flow

        return flow

    failed: OperationFailed | None = None
    try:
        operation_id = run_flow(load_flow, request)
    except OperationFailed as error:
        failed, operation_id = error, error.operation_id
    with reading() as session:
        told = session.get_one(Operation, operation_id).result or {}
    if as_json and failed is None:
        print_json({"operation_id": operation_id} | told)
    elif told and not as_json:
        _print_told(told)
    if told:
        note(f"Written: {told['directory']}/report.html")
    if failed is not None:
        raise failed


def _print_plan(test: Any, per_host: int, as_json: bool) -> None:
    by_host = {host.name: 0 for host in test.hosts}
    for spec in test.machines:
        by_host[spec.host.name] += 1
    turns = [
        {"side": t.side, "repetition": t.repetition, "machines": t.request.count, "name": t.request.name}
        for t in test.turns()
    ]
    plan = {
        "turns": turns,
        "hosts": by_host,
        "per_host_concurrency": per_host,
        "no_floor": test.no_floor,
        "quota_left": test.plan.quota_left,
    }
    if as_json:
        print_json(plan | cost_keys(test.plan.cost))
        return
    print_line(f"Would make and remove, one turn after another, {per_host} at a time on each host:")
    print_table(turns, ("side", "repetition", "machines"))
    print_line(f"Machines by host: {', '.join(f'{name} {n}' for name, n in by_host.items())}")
    print_line(f"Quota left meanwhile: {', '.join(test.plan.quota_left) or 'no limit'}")
    print_cost(test.plan.cost, "Cost while its machines are there")
    if test.no_floor:
        print_line(f"No floor: {test.no_floor}.")
    note("Nothing was touched.")


@group.command()
@click.argument(
    "directories",
    nargs=-1,
    required=True,
    metavar="DIRECTORY...",
    type=click.Path(path_type=Path),
)
@json_option
def report(directories: tuple[Path, ...], as_json: bool) -> None:
    """Show saved tests side by side; write their pages anew."""
    from reports import scale_files

    rows: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for directory in directories:
        frames, about = scale_files.read(directory)
        told.append(scale_files.write(frames, about, directory) | {"about": about})
        rows += [{"test": about["name"]} | figure for figure in told[-1]["figures"]]
    if as_json:
        print_json(told)
        return
    if len(told) == 1:
        _print_told(told[0])
    else:
        rows.sort(key=lambda row: (row["figure"], row["side"], row["unit"]))
        print_table([_rounded(row) for row in rows], ("test", *COLUMNS))
    for one in told:
        note(f"Written: {one['directory']}/report.html")


def _print_told(told: dict[str, Any]) -> None:
    print_table([_rounded(row) for row in told["figures"]], COLUMNS, empty="No repetition was whole.")
    print_line()
    for sentence in told["words"]:
        print_line(sentence)


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return row | {key: round(row[key], 3) for key in ("median", "min", "max")}
