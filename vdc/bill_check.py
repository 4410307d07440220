"""Whether what was issued is what it was: checksums, sums, numbers; and whether a file is one of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.access import check
from vdc.documents import canonical, sha256
from vdc.schema import Bill, CreditNote, Tenant

KINDS: dict[str, Any] = {"bill": Bill, "credit note": CreditNote}


@dataclass(slots=True)
class Checked:
    """One document, and what is wrong with it: empty where it is as it was issued."""

    kind: str
    number: int | None
    sha256: str
    problems: list[str] = field(default_factory=list)


def check_issued(session: Session) -> list[Checked]:
    """Every bill, then every credit note, by number. What is missing in a series is a row too."""
    check(session, "bill.check")
    tenants = dict(session.execute(select(Tenant.id, Tenant.name)).all())
    bills = session.scalars(select(Bill).order_by(Bill.number)).all()
    notes = session.scalars(select(CreditNote).order_by(CreditNote.number)).all()
    checked = [_bill(bill, tenants) for bill in bills]
    of_bill = {bill.number: bill for bill in bills}
    given: dict[int, list[dict[str, Any]]] = {}
    checked_notes = [_note(note, of_bill.get(note.bill_number), given) for note in notes]
    return [*_without_gap("bill", checked), *_without_gap("credit note", checked_notes)]


def check_file(session: Session, text: str) -> Checked:
    """A document's JSON, as somebody has it, against what was issued under its number."""
    check(session, "bill.check")
    try:
        document = json.loads(text)
        kind, number = document["kind"], document["number"]
        seen = sha256(canonical(document))
    except (ValueError, TypeError, KeyError):
        return Checked("-", None, "", ["it is no bill, and no credit note"])
    table = KINDS.get(kind) if isinstance(kind, str) and isinstance(number, int) else None
    if table is None:
        return Checked(str(kind), None, seen, ["it has no number: it was never issued"])
    issued: Bill | CreditNote | None = session.get(table, number)
    if issued is None:
        return Checked(kind, number, seen, ["no document of this number was issued"])
    checked = Checked(kind, number, seen)
    if seen != issued.sha256:
        checked.problems.append(f"the checksum of what was issued is {issued.sha256}")
    return checked


def _bill(bill: Bill, tenants: dict[str, str]) -> Checked:
    row = {
        "kind": "bill",
        "number": bill.number,
        "tenant": tenants.get(bill.tenant_id, ""),
        "month": bill.month,
        "total": str(bill.total),
        "currency": bill.currency,
        "issued_by": bill.issued_by,
    }
    return _document("bill", bill, row)[0]


def _note(note: CreditNote, bill: Bill | None, given: dict[int, list[dict[str, Any]]]) -> Checked:
    row = {
        "kind": "credit note",
        "number": note.number,
        "bill": note.bill_number,
        "bill_sha256": bill.sha256 if bill else None,
        "total": str(note.total),
        "currency": note.currency,
        "reason": note.reason,
        "issued_by": note.issued_by,
    }
    checked, document = _document("credit note", note, row)
    if bill is None:
        checked.problems.append(f"there is no bill {note.bill_number}")
    elif document is not None:
        of_bill = given.setdefault(note.bill_number, [])
        of_bill += document["lines"]
        checked.problems += _too_much(bill, of_bill)
    return checked


def _document(
    kind: str, issued: Bill | CreditNote, row: dict[str, Any]
) -> tuple[Checked, dict[str, Any] | None]:
    checked = Checked(kind, issued.number, issued.sha256)
    seen = sha256(issued.document)
    if seen != issued.sha256:
        checked.problems.append(f"its checksum is {seen}")
    try:
        document: dict[str, Any] = json.loads(issued.document)
        if canonical(document) != issued.document:
            checked.problems.append("it is not in canonical form")
        total = _sum(document["lines"])
    except (ValueError, TypeError, KeyError, ArithmeticError):
        checked.problems.append("it is no document any more")
        return checked, None
    for key, expected in row.items():
        if document.get(key) != expected:
            checked.problems.append(f"its {key} is {document.get(key)}, the inventory says {expected}")
    if total != issued.total:
        checked.problems.append(f"its lines add up to {total}, its total is {issued.total}")
    return checked, document


def _sum(lines: Iterable[dict[str, Any]]) -> Decimal:
    return sum((Decimal(line["amount"]) for line in lines), Decimal(0))


def _too_much(bill: Bill, credited: Sequence[dict[str, Any]]) -> list[str]:
    """What credit notes up to this one give back beyond what was billed."""
    total = _sum(credited)
    return [f"{total} was given back of bill {bill.number} over {bill.total}"] if total > bill.total else []


def _without_gap(kind: str, checked: list[Checked]) -> list[Checked]:
    there = {c.number: c for c in checked}
    last = max((n for n in there if n is not None), default=0)
    return [there.get(n) or Checked(kind, n, "", ["it is missing"]) for n in range(1, last + 1)]
