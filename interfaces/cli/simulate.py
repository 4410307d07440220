"""`vdc bill simulate`: what a history in a file would cost. No inventory is needed."""

from __future__ import annotations

from pathlib import Path

import click

from interfaces.cli.bill_lines import print_document
from interfaces.cli.output import json_option, print_json

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--events", required=True, type=FILE, help="What happened: CSV, or JSON lines (.jsonl).")
@click.option(
    "--tariff",
    "tariffs",
    required=True,
    multiple=True,
    type=FILE,
    help="Prices, TOML or YAML; several, each with its valid_from.",
)
@click.option("--month", required=True, help="Such as 2026-10.")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--time-zone", default="UTC", show_default=True, help="In which the month begins and ends.")
@json_option
def simulate(
    events: Path, tariffs: tuple[Path, ...], month: str, tenant: str, time_zone: str, as_json: bool
) -> None:
    """Bill a history that is given as a file; nothing is read or written but that."""
    from reports.bill import bills
    from reports.history import load_history
    from vdc.billed import Billed
    from vdc.errors import NotFound
    from vdc.months import Month, check_time_zone
    from vdc.tariff_book import TariffBook
    from vdc.tariff_file import load_version

    check_time_zone(time_zone)
    asked = Month.parse(month)
    book = TariffBook.of(load_version(file) for file in tariffs)
    told = load_history(events)
    names = sorted(name for name in told["tenant_id"].unique() if name)
    if tenant and tenant not in names:
        raise NotFound(f"{events} has no tenant {tenant!r}. Known: {', '.join(names)}.")
    tenants = [Billed(name, name, time_zone) for name in ([tenant] if tenant else names)]
    drafts = bills(told, tenants, asked, book, site="", kind="simulation")
    documents = [draft.document for draft in drafts]
    if as_json:
        print_json(documents)
        return
    for document in documents:
        print_document(document)
