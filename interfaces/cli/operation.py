"""`vdc operation ...`: what was done, by whom, with what outcome."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_fields, print_json, print_table
from interfaces.cli.session import reading
from vdc.errors import NotFound


@click.group()
def group() -> None:
    """What was done, by whom, with what outcome."""


@group.command("list")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--open", "open_only", is_flag=True, help="Only those that are not over.")
@click.option("--parent", "parent_id", help="Only the parts of this operation.")
@json_option
def list_(limit: int, open_only: bool, parent_id: str | None, as_json: bool) -> None:
    """Operations, the newest first."""
    with reading() as session:
        rows = listings.operations(session, limit=limit, open_only=open_only, parent_id=parent_id)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        ("id", "kind", "object", "requested_by", "started_at", "outcome", "error"),
        empty="No operation.",
    )


@group.command()
@click.argument("operation_id", metavar="ID")
@json_option
def show(operation_id: str, as_json: bool) -> None:
    """One operation, with what came of it."""
    with reading() as session:
        rows = listings.operations(session, operation_id=operation_id)
    if not rows:
        raise NotFound(f"There is no operation {operation_id!r}: `vdc operation list` has them.")
    if as_json:
        print_json(rows[0])
        return
    fields = {key: value for key, value in rows[0].items() if key != "result"}
    print_fields(fields | (rows[0]["result"] or {}))
