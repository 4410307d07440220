"""`vdc report ...`: reports for administrators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading


@click.group()
def group() -> None:
    """Reports for administrators: capacity, tenants, unused, operations, benchmarks."""


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--out",
        type=click.Path(file_okay=False, path_type=Path),
        help="Also write a page, JSON, and a CSV file a table there.",
    )(command)
    csv = click.option("--csv", "as_csv", metavar="TABLE", help="Print this table as CSV instead.")
    return json_option(csv(command))


@group.command()
@options
def capacity(**shown: Any) -> None:
    """What hosts, datastores and networks carry, their over-commit, and when what runs out."""
    from reports.capacity import capacity as made
    from vdc.schema import utc_now

    with reading() as session:
        report = made(session, utc_now())
    _show(report, **shown)


@group.command()
@click.option("--tariff", default="", metavar="FILE", help="Prices from a TOML or YAML file.")
@options
def tenants(tariff: str, **shown: Any) -> None:
    """Tenants by what their running month costs."""
    from interfaces.cli.bill import read_tariff
    from reports.tenants import tenants as made
    from vdc.schema import utc_now

    with reading() as session:
        report = made(session, utc_now(), read_tariff(tariff))
    _show(report, **shown)


@group.command()
@click.option("--days", type=click.IntRange(1), default=14, show_default=True, help="How long not used.")
@options
def unused(days: int, **shown: Any) -> None:
    """Machines that are off or idle, images and snapshots that nobody uses."""
    from reports.unused import unused as made
    from vdc.schema import utc_now
    from vdc.settings import load

    with reading() as session:
        report = made(session, utc_now(), load().prices, days)
    _show(report, **shown)


@group.command()
@click.option("--days", type=click.IntRange(1), default=30, show_default=True, help="How far back.")
@options
def operations(days: int, **shown: Any) -> None:
    """How many operations of each kind succeed, how long they take, what goes wrong."""
    from reports.operations import operations as made
    from vdc.schema import utc_now

    with reading() as session:
        report = made(session, utc_now(), days)
    _show(report, **shown)


@group.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@options
def benchmarks(files: tuple[Path, ...], **shown: Any) -> None:
    """Results of `make bench` of several runs (FILES: CSV), the newest against the one before."""
    from reports.benchmarks import benchmarks as made
    from vdc.schema import utc_now
    from vdc.settings import CHECKOUT

    _show(made(files or (CHECKOUT / "build" / "bench" / "results.csv",), utc_now()), **shown)


def _show(report: Any, *, out: Path | None, as_csv: str | None, as_json: bool) -> None:
    from reports import report_files
    from reports.report import rows
    from vdc.errors import NotFound

    frames = report.frames()
    if as_csv is not None and as_csv not in frames:
        raise NotFound(f"Report {report.name} has no table {as_csv!r}. It has: {', '.join(frames)}.")
    written = report_files.write(report, out) if out else []
    if as_json:
        print_json(report.data())
    elif as_csv is not None:
        print_line(frames[as_csv].to_csv(index=False).rstrip("\n"))
    else:
        for sentence in report.words:
            print_line(sentence)
        for section in report.sections:
            print_line()
            print_line(f"{section.heading}:")
            # A history is for a picture and for programs.
            shown = section.frame.tail(5) if section.key == "history" else section.frame
            if len(shown):
                print_table(rows(shown), list(shown.columns))
            else:
                print_line(section.empty)
    for file in written:
        note(f"Written: {file}")
