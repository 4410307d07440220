"""`vdc tariff ...`: what is charged, from when on, to whom."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, print_fields, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.tariffs import Kept


@click.group()
def group() -> None:
    """What is charged, from when on, to whom. Without any, the list prices of the settings are."""


@group.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def add(file: Path, as_json: bool) -> None:
    """Keep the tariff in FILE (TOML or YAML); what was kept is never changed."""
    from vdc.tariff_file import load_version
    from vdc.tariffs import add_tariff

    version = load_version(file)
    with writing() as session:
        kept = add_tariff(session, version, actor=actor())
    if as_json:
        print_json(_row(kept))
        return
    print_line(f"Tariff {kept.number} is kept: {kept.version.label}.")


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's own.")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Tariffs that are kept."""
    from vdc.tariffs import read_tariffs

    with reading() as session:
        rows = [_row(kept) for kept in read_tariffs(session, tenant)]
    if as_json:
        print_json(rows)
        return
    columns = ("number", "tenant", "valid_from", "valid_until", "currency", "created_at", "created_by")
    print_table(rows, columns, empty="None is kept: the list prices of the settings are charged.")


@group.command()
@click.argument("number", type=int)
@json_option
def show(number: int, as_json: bool) -> None:
    """All prices of a tariff."""
    from vdc.tariffs import read_tariff

    with reading() as session:
        kept = read_tariff(session, number)
    row = _row(kept) | kept.version.tariff.described()
    if as_json:
        print_json(row)
        return
    print_fields({name: value for name, value in _plain(row).items() if value not in ("", None)})


def _row(kept: Kept) -> dict[str, Any]:
    version = kept.version
    return {
        "number": kept.number,
        "tenant": version.tenant or None,
        "valid_from": version.valid_from,
        "valid_until": version.valid_until,
        "currency": version.tariff.currency,
        "created_at": kept.created_at,
        "created_by": kept.created_by,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """Tables and lists as a phrase each."""
    said = dict(row)
    for name, value in row.items():
        if isinstance(value, dict):
            said[name] = ", ".join(f"{key} {price}" for key, price in value.items())
        elif isinstance(value, list):
            said[name] = "; ".join(", ".join(f"{k} {v}" for k, v in part.items()) for part in value)
    return said
