"""`vdc operation ...`: what was done, by whom, with what outcome."""

from __future__ import annotations

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_table
from interfaces.cli.session import reading


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
