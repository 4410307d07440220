"""A bill on the terminal, line by line."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from interfaces.cli.output import print_line, print_table

LINE_COLUMNS = (
    "line",
    "machine",
    "what",
    "from",
    "to",
    "hours",
    "quantity",
    "unit",
    "unit_price",
    "amount",
)
NUMBERS = ("hours", "quantity", "unit_price", "amount")


def print_document(document: Mapping[str, Any]) -> None:
    """A bill, a preview or a simulation."""
    kind = document["kind"]
    title = {
        "preview": f"Preview, not a bill: used until {document['charged_until']}",
        "simulation": "Simulation, not a bill",
    }.get(kind, f"Bill {document['number']}")
    print_line(f"{title}. Tenant {document['tenant']}, {document['month']} ({document['time_zone']}).")
    # Of several tariffs each line says by which it is priced.
    more = ("tariff",) if len({line.get("tariff") for line in document["lines"]}) > 1 else ()
    rows = [
        line | {"line": number} | {key: Decimal(line[key]) for key in NUMBERS}
        for number, line in enumerate(document["lines"], 1)
    ]
    print_table(rows, (*LINE_COLUMNS, *more), empty="Nothing was used.")
    print_line(f"Total: {document['total']} {document['currency']}")
    if tax := document.get("tax"):
        print_line(f"{tax['name']} {tax['percent']}%: {tax['amount']} {document['currency']}")
        print_line(f"To pay: {document['payable']} {document['currency']}")
