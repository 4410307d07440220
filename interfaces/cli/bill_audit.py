"""`vdc bill verify`, `vdc bill explain`: bills that can be defended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from interfaces.cli.output import json_option, print_fields, print_json, print_line, print_table
from interfaces.cli.session import reading

EVENT_COLUMNS = (
    "at",
    "event",
    "means",
    "vcpu",
    ("memory_mib", "MEM MIB"),
    "disk_mib",
    "operation",
    ("requested_by", "BY"),
    "flow_run_id",
    "operation_id",
)


@click.command()
@click.argument("files", nargs=-1, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def verify(files: tuple[Path, ...], as_json: bool) -> int:
    """Compute the checksum of every bill and credit note again; with FILES (JSON), of these alone."""
    from dataclasses import asdict

    from vdc.bill_check import check_file, check_issued

    with reading() as session:
        if files:
            found = [{"file": str(file)} | asdict(check_file(session, _text(file))) for file in files]
        else:
            found = [asdict(checked) for checked in check_issued(session)]
    wrong = sum(bool(row["problems"]) for row in found)
    if as_json:
        print_json(found)
    else:
        shown = [row | {"says": "; ".join(row["problems"]) or "as it was issued"} for row in found]
        columns = (*["file"] * bool(files), "kind", "number", "sha256", "says")
        print_table(shown, columns, empty="No bill was issued yet.")
        if found:
            print_line(f"{wrong} of {len(found)} are wrong." if wrong else "All are as they were issued.")
    return 1 if wrong else 0


def _text(file: Path) -> str:
    from vdc.errors import Invalid

    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}.") from error


@click.command()
@click.argument("line")
@click.option("--tenant", default="", help="A line of the running month's preview of this tenant.")
@click.option("--month", default="", help="With --tenant: of the preview of this month, such as 2026-10.")
@json_option
def explain(line: str, tenant: str, month: str, as_json: bool) -> None:
    """Why a LINE is on a bill: 17/3 is line 3 of bill 17; with --tenant, 3 is that of its preview."""
    from dataclasses import asdict

    from reports.explain import explain as explained

    document, number = _document(line, tenant, month)
    with reading() as session:
        found = explained(session, document, number)
    if as_json:
        print_json(asdict(found))
        return
    about = {key: found.line[key] for key in ("machine", "vm_id", "what", "from", "to") if found.line[key]}
    print_fields({"line": f"{number} of {_name(document)}", **about, "amount": found.arithmetic})
    if not found.follows:
        print_line(f"But the line says {found.line['amount']} {document['currency']}.")
    print_line()
    print_table(found.events, EVENT_COLUMNS, empty="No event of a machine is behind it.")
    for words in found.words:
        print_line(words)


def _name(document: dict[str, Any]) -> str:
    from vdc.documents import label

    return f"{label(document)}, tenant {document['tenant']}, {document['month']}"


def _document(line: str, tenant: str, month: str) -> tuple[dict[str, Any], int]:
    from interfaces.cli import bill
    from vdc.errors import Invalid

    number, of_bill, position = line.rpartition("/")
    wanted = "17/3 is line 3 of bill 17; with --tenant NAME, 3 is line 3 of its preview"
    if not position.isdecimal() or (of_bill and not number.isdecimal()) or bool(of_bill) == bool(tenant):
        raise Invalid(f"Line {line!r} is refused: {wanted}.")
    if tenant:
        (document,) = bill.read_previews(tenant, month)
        return document, int(position)
    return bill.read_issued_bill(int(number))[0], int(position)


COMMANDS = (verify, explain)
