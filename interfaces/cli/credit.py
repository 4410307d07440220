"""`vdc bill credit ...`: what is given back of a bill."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor

CREDIT_COLUMNS = ("number", "bill", "tenant", "month", "total", "currency", "reason", "sha256")
LINE_COLUMNS = ("line", "machine", "what", "from", "to", "billed", "amount")

out_option = click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Also write its files there."
)


@click.group("credit")
def group() -> None:
    """Credit notes: what is given back of a bill, which itself stays as it is."""


@group.command()
@click.argument("bill", type=int)
@click.option(
    "--line",
    "lines",
    multiple=True,
    metavar="LINE[=AMOUNT]",
    help="A line of the bill, and what is given back of it; without an amount all that is left. Repeatable.",
)
@click.option("--all", "whole", is_flag=True, help="All that is left of the bill.")
@click.option("--reason", required=True, help="It stands on the credit note.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what it would be; issue nothing.")
@out_option
@json_option
def create(
    bill: int,
    lines: tuple[str, ...],
    whole: bool,
    reason: str,
    only_plan: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Issue a credit note for lines of BILL."""
    from dataclasses import asdict

    from vdc.crediting import issue_credit_note, read_credit_note
    from vdc.errors import Invalid

    if bool(lines) == whole:
        raise Invalid("Say of which lines: --line for each, or --all.")
    wanted = None if whole else _lines(lines)
    with writing(commit=not only_plan) as session:
        credited = issue_credit_note(session, bill, wanted, reason, actor=actor())
        document = read_credit_note(session, credited.number)[0].document
    written = _write(document, out) if out and not only_plan else []
    if as_json:
        number = None if only_plan else credited.number
        print_json(asdict(credited) | {"number": number, "sha256": None if only_plan else credited.sha256})
        return
    _print_document(document, planned=only_plan)
    for file in written:
        note(f"Written: {file}")
    if only_plan:
        note("Nothing was issued.")


def _lines(given: tuple[str, ...]) -> dict[int, Decimal | None]:
    """`3` or `3=1.20`. Raises Invalid."""
    from vdc.errors import Invalid

    lines: dict[int, Decimal | None] = {}
    for text in given:
        number, equals, amount = text.partition("=")
        try:
            line, value = int(number), Decimal(amount) if equals else None
        except (ValueError, InvalidOperation) as error:
            raise Invalid(f"--line {text!r} is refused: give 3, or 3=1.20.") from error
        if line in lines:
            raise Invalid(f"--line {line} is there twice.")
        lines[line] = value
    return lines


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--bill", type=int, help="Only of this bill.")
@json_option
def list_(tenant: str, bill: int | None, as_json: bool) -> None:
    """Credit notes, by number."""
    from dataclasses import asdict

    from vdc.billing import read_bill, read_tenants
    from vdc.crediting import read_credits

    with reading() as session:
        if tenant:
            read_tenants(session, tenant)  # refuses an unknown one
        if bill is not None:
            read_bill(session, bill)
        rows = [asdict(row) for row in read_credits(session, tenant=tenant, bill=bill)]
    if as_json:
        print_json(rows)
        return
    print_table(rows, CREDIT_COLUMNS, empty="No credit note was issued yet.")


@group.command()
@click.argument("number", type=int)
@out_option
@json_option
def show(number: int, out: Path | None, as_json: bool) -> None:
    """A credit note as it was issued, after its checksum was compared."""
    import json
    from dataclasses import asdict

    from vdc.crediting import read_credit_note

    with reading() as session:
        kept, credited = read_credit_note(session, number)
        document = kept.document
    written = _write(document, out) if out else []
    if as_json:
        print_json(asdict(credited) | {"document": json.loads(document)})
        return
    _print_document(document)
    print_line(f"SHA-256 {credited.sha256}")
    for file in written:
        note(f"Written: {file}")


def _write(document: str, out: Path) -> list[Path]:
    import json

    from reports import files

    return files.write(json.loads(document), out, document)


def _print_document(text: str, *, planned: bool = False) -> None:
    import json

    document = json.loads(text)
    title = "Would be issued" if planned else f"Credit note {document['number']}"
    print_line(
        f"{title}: of bill {document['bill']}, tenant {document['tenant']}, {document['month']}. "
        f"Reason: {document['reason']}"
    )
    rows = [line | {key: Decimal(line[key]) for key in ("billed", "amount")} for line in document["lines"]]
    print_table(rows, LINE_COLUMNS)
    print_line(f"Given back: {document['total']} {document['currency']}")
    if tax := document["tax"]:
        print_line(f"{tax['name']} {tax['percent']}%: {tax['amount']} {document['currency']}")
        print_line(f"In all: {document['payable']} {document['currency']}")
    if not planned:
        print_line(f"Issued {document['issued_at']} by {document['issued_by']}")
