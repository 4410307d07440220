"""`vdc audit`: who did what to which object."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from interfaces.cli.output import json_option, print_json, print_table
from interfaces.cli.session import reading
from vdc.errors import Invalid


@click.command()
@click.option("--user", default="", help="Only what this one asked for.")
@click.option("--object", "object_name", default="", metavar="NAME", help="Only on this: web-1, or vm/web-1.")
@click.option("--since", default="", metavar="TIME", help="Such as 2026-11-01, or 2026-11-01T06:00Z.")
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True)
@json_option
def audit(user: str, object_name: str, since: str, limit: int, as_json: bool) -> None:
    """Who did what to which object, when, with what outcome; every refusal too. The newest first."""
    from vdc.audit import read

    with reading() as session:
        rows = read(session, user=user, object_name=object_name, since=_instant(since), limit=limit)
    if as_json:
        print_json(rows)
        return
    print_table(rows, ("at", "who", "what", "object", "outcome", "error"), empty="Nothing of that kind.")


def _instant(text: str) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Invalid(f"{text!r} is no time: write it as 2026-11-01, or 2026-11-01T06:00Z.") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)
