"""`vdc burnin ...`: random operations by several users, and whether the platform is sound afterwards."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, print_cost
from vdc.access import actor
from vdc.errors import OperationFailed
from vdc.settings import load

COLUMNS = (
    "operation",
    "must_be_refused",
    "asked",
    "done",
    "conflict",
    "refused",
    "failed",
    ("p50_s", "P50 S"),
    ("p95_s", "P95 S"),
)

_out = click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Where the log goes.")
_keep = click.option("--keep", is_flag=True, help="Leave the machines as they are, to look at them.")
_seed = click.option("--seed", type=int, default=1, show_default=True, help="Of what is drawn.")
_tenant = click.option("--tenant", default="default", show_default=True, help="Whose machines they are.")


@click.group()
def group() -> None:
    """Random operations by several users at once, and whether the platform is sound afterwards."""


@group.command()
@click.option("--template", required=True, help="Name of the template.")
@click.option("--operations", type=int, default=200, show_default=True, help="How many, by all users.")
@click.option("--users", type=int, default=4, show_default=True, help="How many at the same time.")
@_seed
@click.option("--max-machines", type=int, default=8, show_default=True, help="At the same time, at most.")
@_tenant
@_out
@_keep
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def run(out: Path | None, keep: bool, only_plan: bool, as_json: bool, **options: Any) -> None:
    """Let users draw operations and ask for them; look at everything; remove the machines."""
    from interfaces.cli.session import writing
    from vdc.claims.burnin import claim_burnin
    from vdc.requests import BurninRequest

    request = BurninRequest(**options)
    # The plan first: what cannot be is refused at once.
    with writing(commit=False) as session:
        burnin = claim_burnin(session, request, actor=actor(), prices=load().prices)
    if only_plan:
        _print_plan(burnin, as_json)
        return
    directory = _directory(request, out)
    _use_prefect()
    from deployments.burnin import course

    _tell(lambda: course.run(request, directory, note, keep=keep), as_json)


@group.command()
@click.argument("log", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--concurrent", is_flag=True, help="The users at the same time again, not one operation after another."
)
@_out
@_keep
@json_option
def replay(log: Path, concurrent: bool, out: Path | None, keep: bool, as_json: bool) -> None:
    """Ask again for the operations of a LOG, in its order; say what went otherwise."""
    from interfaces.cli.session import reading

    with reading():
        pass  # refuses where there is no inventory
    _use_prefect()
    from deployments.burnin import course

    request, _ = course.read_log(log)
    directory = _directory(request, out)
    _tell(lambda: course.replay(log, directory, note, alone=not concurrent, keep=keep), as_json)


@group.command()
@_seed
@_tenant
@json_option
def remove(seed: int, tenant: str, as_json: bool) -> None:
    """Remove what a burn-in left that was killed, or kept its machines."""
    from interfaces.cli.session import reading
    from vdc.claims.burnin import names_of
    from vdc.requests import BurninRequest

    request = BurninRequest(template="", seed=seed, tenant=tenant)
    with reading() as session:
        there = names_of(session, request)
    left: list[str] = []
    if there:
        _use_prefect()
        from deployments.burnin import course

        left = course.remove(request, note)
    removed = [name for name in there if name not in left]
    if as_json and not left:
        print_json({"removed": removed})
    elif not as_json:
        print_line(f"Removed: {', '.join(removed)}." if removed else "Nothing to remove.")
    if left:
        raise OperationFailed(f"Still there: {', '.join(left)}.", "")


def _use_prefect() -> None:
    from interfaces.cli.engine import use_prefect

    use_prefect()


def _directory(request: Any, out: Path | None) -> Path:
    from vdc.claims.burnin import out_directory

    began = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    return out_directory(request, str(out.resolve()) if out else "", load().home, began)


def _print_plan(burnin: Any, as_json: bool) -> None:
    from vdc.burnin import TABLE, prefix

    request = burnin.request
    rows = [{"operation": r.operation, "must_be_refused": r.case, "weight": r.weight} for r in TABLE]
    if as_json:
        hosts = {"hosts": burnin.hosts, "quota_left": burnin.plan.quota_left}
        hosts |= cost_keys(burnin.plan.cost)
        print_json(
            request.model_dump(mode="json") | {"names": f"{prefix(request.seed)}N", "table": rows} | hosts
        )
        return
    print_line(
        f"Would ask for {request.operations} operations by {request.users} users, on at most "
        f"{request.max_machines} machines named {prefix(request.seed)}N, drawn from:"
    )
    print_table(rows, ("operation", "must_be_refused", "weight"))
    print_line(f"Hosts: {', '.join(burnin.hosts)}")
    print_line(f"Quota left meanwhile: {', '.join(burnin.plan.quota_left) or 'no limit'}")
    print_cost(burnin.plan.cost, "Cost while its machines are there, at most")
    note("Nothing was touched.")


def _tell(go: Callable[[], Any], as_json: bool) -> None:
    from deployments.burnin.course import Unsound

    failed: Unsound | None = None
    try:
        report = go()
    except Unsound as error:
        failed, report = error, error.report
    if as_json:
        if failed is None:
            print_json(report.told())
    else:
        print_table(report.operations, COLUMNS)
        print_line()
        rows = [{"check": c.name, "result": c.result, "wrong": len(c.problems)} for c in report.checks]
        print_table(rows, ("check", "result", "wrong"))
        for check in report.checks:
            for problem in check.problems:
                print_line(f"{check.name}: {problem}")
        for difference in report.differs:
            print_line(f"Otherwise than in the log: {difference}.")
    note(f"Log: {report.directory}/log.jsonl")
    if report.left:
        note(f"Left: {', '.join(report.left)}")
    if failed is not None:
        raise failed
