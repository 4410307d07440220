"""`vdc quota ...`: what tenants and users may use, and do."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import bar, json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.errors import Invalid

_tenant = click.option("--tenant", default="", help="Of this tenant.")
_user = click.option("--user", default="", help="Of this user.")


@click.group()
def group() -> None:
    """What tenants and users may use, and do."""


@group.command()
@_tenant
@_user
@click.option("--all", "unlimited", is_flag=True, help="Also what has no limit.")
@json_option
def show(tenant: str, user: str, unlimited: bool, as_json: bool) -> None:
    """Limits, and what is used of them; of all tenants and users that you may see, or of one."""
    from vdc.quotas import holders, rows

    with reading() as session:
        found = [(h.kind, h.row.name, rows(h)) for h in holders(session, tenant=tenant, user=user)]
    if as_json:
        print_json([{"kind": kind, "name": name, "quota": limits} for kind, name, limits in found])
        return
    shown = [
        {"whose": f"{kind} {name}", "what": row["what"], **_use_of(row)}
        for kind, name, limits in found
        for row in limits
        if row["limit"] is not None or (unlimited and row["used"] is not None)
    ]
    print_table(
        shown, ("whose", "what", "used", "limit", "left", ("bar", "IN USE")), empty="No limit is set."
    )


def _use_of(row: dict[str, Any]) -> dict[str, Any]:
    limited = row["limit"] is not None and row["used"] is not None
    seen = {key: row[key] for key in ("used", "limit", "left")}
    return seen | {"bar": bar(row["used"], row["limit"]) if limited else None}


@group.command("set")
@_tenant
@_user
@click.option("--below-use", is_flag=True, help="Also below what is in use: nothing more is given out then.")
@click.argument("limits", nargs=-1, required=True, metavar="NAME=NUMBER|none...")
@json_option
def set_(tenant: str, user: str, below_use: bool, limits: tuple[str, ...], as_json: bool) -> None:
    """Change limits: vms=20 vcpu=40 running_vcpu=30 memory_mib=65536 disk_mib=none snapshots=50
    snapshot_days=30 images=5 addresses=4; of one machine vm_vcpu=8 vm_memory_mib=16384 vm_disk_mib=204800."""
    from vdc.quotas import set_quota

    wanted = dict(map(_limit, limits))
    with writing() as session:
        changes = set_quota(session, wanted, tenant=tenant, user=user, below_use=below_use, actor=actor())
    if as_json:
        print_json({"kind": "tenant" if tenant else "user", "name": tenant or user, "changes": changes})
        return
    for change in changes:
        print_line(change)
    if not changes:
        note("Nothing to change.")


def _limit(text: str) -> tuple[str, int | None]:
    name, equals, value = text.partition("=")
    try:
        return name, None if value == "none" else int(value if equals else "")
    except ValueError as error:
        raise Invalid(f"{text!r} is no limit: write it as vms=20, or vms=none.") from error
