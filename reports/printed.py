"""What the page and the PDF of a document have in common: sums, sides, and how it is counted."""

from __future__ import annotations

from dataclasses import asdict
from decimal import Decimal
from typing import Any, NamedTuple

from vdc.documents import Document, Party

_HOW = """A machine that runs or is paused pays for its vCPUs, its memory and its disk; one that is stopped or
suspended pays what the tariff says, which is for its disk unless it says otherwise; one on EC2 pays for its
instance while that runs. Amount = hours x quantity x price; a price for a month is for the whole month, and
is divided by its {hours} hours. Each line is rounded to the cent, once, half a cent up; tax is computed of
the total, once. From is counted, to is not."""


def with_sides(document: Document) -> Document:
    """With `seller`, `customer`, `tax` and `payable`, where nobody has said them (see vdc.customers)."""
    nobody = {"seller": asdict(Party()), "customer": asdict(Party(document["tenant"]))}
    return nobody | {"tax": None, "payable": document["total"]} | document


def how(document: Document) -> str:
    """What a reader must know to check it."""
    if document["kind"] == "credit note":
        return (
            f"The numbers of the lines are those of bill {document['bill']} "
            f"(SHA-256 {document['bill_sha256']}), which stays as it is."
        )
    return " ".join(_HOW.format(hours=document["hours"]).split())


class OfMachine(NamedTuple):
    """A machine's lines (each with its number on the bill as `line`), or those of what is no machine."""

    name: str
    vm_id: str
    lines: list[dict[str, Any]]
    total: Decimal


def numbered(document: Document) -> list[dict[str, Any]]:
    """The lines, each with its number."""
    return [{"line": n} | line for n, line in enumerate(document["lines"], 1)]


def by_machine(document: Document) -> list[OfMachine]:
    """In the order of the lines."""
    of: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for line in numbered(document):
        of.setdefault((line["machine"], line["vm_id"]), []).append(line)
    return [OfMachine(name, vm_id, lines, _sum(lines)) for (name, vm_id), lines in of.items()]


def by_what(document: Document) -> dict[str, Decimal]:
    """In the order in which they come first; what costs nothing is left out."""
    of: dict[str, list[dict[str, Any]]] = {}
    for line in document["lines"]:
        of.setdefault(line["what"], []).append(line)
    sums = {what: _sum(lines) for what, lines in of.items()}
    return {what: total for what, total in sums.items() if total}


def _sum(lines: list[dict[str, Any]]) -> Decimal:
    return sum((Decimal(line["amount"]) for line in lines), Decimal("0.00"))
