"""`vdc bill ...`: what tenants owe."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from interfaces.cli import bill_audit, credit, simulate
from interfaces.cli.bill_lines import print_document
from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading

BILL_COLUMNS = ("number", "tenant", "month", "total", "currency", "sha256")
LISTED_COLUMNS = ("number", "tenant", "month", "total", "credited", "currency", "sha256")

tenant_option = click.option("--tenant", default="", help="Only this tenant's.")
tariff_option = click.option(
    "--tariff", default="", metavar="FILE", help="Prices from a TOML or YAML file, not the settings' ones."
)
out_option = click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write its files there: JSON, CSV, Parquet, HTML, PDF.",
)


@click.group()
def group() -> None:
    """What tenants owe: a preview of the running month, bills of those that are over."""


group.add_command(credit.group)
group.add_command(simulate.simulate)
for command in bill_audit.COMMANDS:
    group.add_command(command)


@group.command()
@tenant_option
@click.option("--month", default="", help="Such as 2026-10; none: the running one.")
@tariff_option
@out_option
@json_option
def preview(tenant: str, month: str, tariff: str, out: Path | None, as_json: bool) -> None:
    """What was used until now, priced. Not a bill: nothing is written down."""
    from reports import files

    documents = read_previews(tenant, month, tariff)
    written = [file for document in documents for file in files.write(document, out)] if out else []
    if as_json:
        print_json(documents)
        return
    for document in documents:
        print_document(document)
    for file in written:
        note(f"Written: {file}")


def read_previews(tenant: str, month: str, tariff: str = "") -> list[dict[str, Any]]:
    """One of each tenant, as far as the month has gone. Raises InvalidState where it has not begun."""
    from reports.bill import bills
    from reports.usage import read_events
    from vdc.billing import read_site, read_tenants
    from vdc.customers import addressed
    from vdc.errors import InvalidState
    from vdc.months import Month
    from vdc.schema import Tenant, utc_now
    from vdc.settings import load

    now, prices = utc_now(), read_tariff(tariff)
    documents = []
    with reading() as session:
        site = read_site(session)
        for billed in read_tenants(session, tenant):
            chosen = Month.parse(month) if month else Month.of(now, billed.time_zone)
            if now < billed.window(chosen).begin:
                raise InvalidState(f"Month {chosen} has not begun for tenant {billed.name}.")
            events = read_events(session, [billed.tenant_id], billed.window(chosen))
            drafts = bills(events, [billed], chosen, prices, site=site, now=now)
            row = session.get_one(Tenant, billed.tenant_id)
            documents += [addressed(draft.document, row, load().seller) for draft in drafts]
    return documents


def read_tariff(file: str) -> Any:
    """The tariff of `--tariff`; else those that are kept, and the list prices where none is in force."""
    from vdc.settings import load
    from vdc.tariff_book import TariffBook
    from vdc.tariff_file import load_tariff
    from vdc.tariffs import read_book

    if file:
        return TariffBook.always(load_tariff(Path(file)))
    with reading() as session:
        return read_book(session, load().prices)


@group.command()
@click.argument("month")
@tenant_option
@tariff_option
@out_option
@json_option
def month(month: str, tenant: str, tariff: str, out: Path | None, as_json: bool) -> None:
    """Issue the bills of a MONTH that is over, such as 2026-10; those that are there stay as they are."""
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import writing
    from vdc.access import actor
    from vdc.billing import claim_bills
    from vdc.requests import BillRequest

    if tariff:
        read_tariff(tariff)  # refused here, not in the flow
        tariff = str(Path(tariff).resolve())
    request = BillRequest(month=month, tenant=tenant, tariff=tariff)
    # What cannot be is refused at once, without a flow run; so is answered what was issued already.
    with writing(commit=False) as session:
        claim = claim_bills(session, request, actor=actor())

    def load_flow() -> Any:
        from flows.bill import bill as flow

        return flow

    issued = run_flow(load_flow, request) if claim.claim else list(claim.issued)
    written = [file for bill in issued if bill.number and out for file in _write(bill.number, out)]
    if as_json:
        print_json(issued)
        return
    print_table([_issued_row(bill) for bill in issued], (*BILL_COLUMNS, "said"), empty="There is no tenant.")
    for file in written:
        note(f"Written: {file}")


def _issued_row(bill: Any) -> dict[str, Any]:
    said = "issued" if bill.new else "issued before, unchanged" if bill.number else "nothing was used"
    return {key: getattr(bill, key) for key in BILL_COLUMNS} | {"said": said}


@group.command("list")
@tenant_option
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Bills that were issued, by number, and what was given back of them."""
    from vdc.billing import read_issued, read_tenants
    from vdc.crediting import read_credits

    with reading() as session:
        if tenant:
            read_tenants(session, tenant)  # refuses an unknown one
        given: dict[int, Decimal] = {}
        for note_ in read_credits(session, tenant=tenant):
            given[note_.bill] = given.get(note_.bill, Decimal("0.00")) + note_.total
        rows = [
            {key: getattr(bill, key) for key in BILL_COLUMNS}
            | {"credited": given.get(bill.number or 0, Decimal("0.00"))}
            for bill in read_issued(session, tenant=tenant)
        ]
    if as_json:
        print_json(rows)
        return
    print_table(rows, LISTED_COLUMNS, empty="No bill was issued yet. Issue one: vdc bill month YYYY-MM")


@group.command()
@click.argument("number", type=int)
@out_option
@json_option
def show(number: int, out: Path | None, as_json: bool) -> None:
    """A bill as it was issued, after its checksum was compared."""
    document, about = read_issued_bill(number)
    written = _write(number, out) if out else []
    if as_json:
        print_json(about | {"document": document})
        return
    print_document(document)
    print_line(f"Issued {about['issued_at']} by {about['issued_by']}, SHA-256 {about['sha256']}")
    for file in written:
        note(f"Written: {file}")


def read_issued_bill(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its document, and what is kept beside it. Raises NotFound."""
    import json

    from vdc.billing import read_bill

    with reading() as session:
        bill, tenant = read_bill(session, number)
        keys = ("number", "month", "total", "currency", "sha256", "issued_at", "issued_by", "operation_id")
        about = {"tenant": tenant} | {key: getattr(bill, key) for key in keys}
        return json.loads(bill.document), about


def _write(number: int, out: Path) -> list[Path]:
    import json

    from reports import files
    from vdc.billing import read_bill

    with reading() as session:
        text = read_bill(session, number)[0].document
    return files.write(json.loads(text), out, text)
