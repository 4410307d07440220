"""Credit notes: what is given back of a bill that was issued. The bill stays as it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import check, visible
from vdc.billing import read_bill
from vdc.customers import credited_tax
from vdc.documents import Document, canonical, sha256
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, VdcError
from vdc.operations import Opening
from vdc.schema import Bill, CreditNote, Tenant, utc_now
from vdc.tariff import CENT

MAX_REASON = 500

SAME = ("site", "tenant", "month", "time_zone", "currency", "seller", "customer")
"""What a credit note has from its bill."""

Lines = Mapping[int, Decimal | None]
"""Number of a bill's line -> what is given back of it; None: all that is left."""


@dataclass(frozen=True, slots=True)
class Credited:
    """A credit note, in short."""

    number: int
    bill: int
    tenant: str
    month: str
    total: Decimal
    currency: str
    reason: str
    sha256: str
    issued_at: datetime
    issued_by: str


def issue_credit_note(
    session: Session, bill_number: int, lines: Lines | None, reason: str, *, actor: str
) -> Credited:
    """Give back these lines of a bill (None: all that is left of it), in one audited transaction.

    Raises NotFound for an unknown bill or line; Invalid without a reason, or for an amount that cannot be;
    InvalidState where more would be given back than was billed; Conflict where the same was issued already;
    VdcError where the bill is not what was issued.
    """
    check(session, "bill.credit", str(bill_number))
    reason = " ".join(reason.split())
    if not 1 <= len(reason) <= MAX_REASON:
        raise Invalid(f"A credit note needs a reason, of at most {MAX_REASON} characters: give --reason.")
    bill, tenant = read_bill(session, bill_number)
    document: Document = json.loads(bill.document)
    before = read_credited_lines(session, bill_number)
    left = {n: Decimal(x["amount"]) - before.get(n, 0) for n, x in enumerate(document["lines"], 1)}
    wanted = {n: None for n, amount in left.items() if amount} if lines is None else lines
    if not wanted:
        raise InvalidState(f"Nothing is left to give back of bill {bill_number}.")
    amounts = {n: _amount(bill_number, n, asked, left) for n, asked in sorted(wanted.items())}
    total = sum(amounts.values(), Decimal("0.00"))
    given = sum((note.total for note in _of_bill(session, bill_number)), Decimal("0.00"))
    _check_total(bill, given, total)
    credited = [_line(n, document["lines"][n - 1], amount) for n, amount in amounts.items()]
    _check_new(session, bill_number, credited, reason)
    tax = credited_tax(document, given, total)
    return _written(session, bill, tenant, document, credited, total, tax, reason, actor)


def read_credited_lines(session: Session, bill_number: int) -> dict[int, Decimal]:
    """What was given back of each line of a bill."""
    given: dict[int, Decimal] = {}
    for note in _of_bill(session, bill_number):
        for line in json.loads(note.document)["lines"]:
            given[line["line"]] = given.get(line["line"], Decimal(0)) + Decimal(line["amount"])
    return given


def read_credits(session: Session, *, tenant: str = "", bill: int | None = None) -> list[Credited]:
    """Credit notes by number; of one tenant or bill where named."""
    query = select(CreditNote, Bill.month, Tenant.name).join(Bill, Bill.number == CreditNote.bill_number)
    query = query.join(Tenant, Tenant.id == Bill.tenant_id).order_by(CreditNote.number)
    query = query.where(visible(session, Bill))
    if tenant:
        query = query.where(Tenant.name == tenant)
    if bill is not None:
        query = query.where(CreditNote.bill_number == bill)
    return [_credited(note, month, name) for note, month, name in session.execute(query)]


def read_credit_note(session: Session, number: int) -> tuple[CreditNote, Credited]:
    """A credit note. Raises NotFound, and VdcError where it is not what was issued."""
    of_bill = select(CreditNote).join(Bill, Bill.number == CreditNote.bill_number)
    note = session.scalars(of_bill.where(CreditNote.number == number, visible(session, Bill))).first()
    if note is None:
        last = max((credit.number for credit in read_credits(session)), default=None)
        raise NotFound(
            f"There is no credit note {number}. " + (f"The last is {last}." if last else "None is yet.")
        )
    if sha256(note.document) != note.sha256:
        raise VdcError(f"Credit note {number} is not what was issued: its checksum is not {note.sha256}.")
    bill, tenant = read_bill(session, note.bill_number)
    return note, _credited(note, bill.month, tenant)


def _credited(note: CreditNote, month: str, tenant: str) -> Credited:
    return Credited(
        number=note.number,
        bill=note.bill_number,
        tenant=tenant,
        month=month,
        total=note.total,
        currency=note.currency,
        reason=note.reason,
        sha256=note.sha256,
        issued_at=note.issued_at,
        issued_by=note.issued_by,
    )


def _of_bill(session: Session, bill_number: int) -> list[CreditNote]:
    query = select(CreditNote).where(CreditNote.bill_number == bill_number).order_by(CreditNote.number)
    return list(session.scalars(query))


def _amount(bill_number: int, line: int, asked: Decimal | None, left: Mapping[int, Decimal]) -> Decimal:
    name = f"Line {line} of bill {bill_number}"
    if line not in left:
        raise NotFound(f"Bill {bill_number} has no line {line}: it has lines 1 to {len(left)}.")
    rest = left[line]
    if asked is None:
        if not rest:
            raise InvalidState(f"{name}: nothing is left to give back.")
        return rest
    if not asked.is_finite() or asked <= 0 or asked != asked.quantize(CENT):
        raise Invalid(f"{name}: {asked} is refused: give an amount above 0 in whole cents, such as 1.20.")
    if asked > rest:
        raise InvalidState(
            f"{name}: {asked} is more than the {max(rest, Decimal('0.00'))} that is left of it."
        )
    return asked.quantize(CENT)


def _check_total(bill: Bill, before: Decimal, total: Decimal) -> None:
    if total <= 0:
        raise Invalid(f"These lines of bill {bill.number} add up to {total}: there is nothing to give back.")
    if before + total > bill.total:
        raise InvalidState(
            f"{total} {bill.currency} is more than what is left of bill {bill.number}: its total is "
            f"{bill.total}, and {before} was given back."
        )


def _check_new(session: Session, bill_number: int, lines: list[dict[str, Any]], reason: str) -> None:
    """Asked twice by mistake, it would be given back twice."""
    for note in _of_bill(session, bill_number):
        if note.reason == reason and json.loads(note.document)["lines"] == lines:
            raise Conflict(
                f"Credit note {note.number} gives back the same of bill {bill_number} for the same reason. "
                "If it is to be given back once more, give another reason."
            )


def _line(number: int, billed: Mapping[str, Any], amount: Decimal) -> dict[str, Any]:
    kept = {key: billed[key] for key in ("machine", "vm_id", "what", "from", "to")}
    return {"line": number, **kept, "billed": billed["amount"], "amount": str(amount)}


def _written(
    session: Session,
    bill: Bill,
    tenant: str,
    billed: Document,
    lines: list[dict[str, Any]],
    total: Decimal,
    tax: dict[str, str] | None,
    reason: str,
    actor: str,
) -> Credited:
    opening = Opening(
        "credit", "bill", str(bill.number), str(bill.number), {"reason": reason, "total": str(total)}
    )
    claim = operations.open_one(session, opening, actor=actor)
    now = utc_now()
    number = (session.scalar(select(func.max(CreditNote.number))) or 0) + 1
    payable = total + (Decimal(tax["amount"]) if tax else 0)
    same = {key: billed[key] for key in SAME}
    document = canonical(
        {
            "kind": "credit note",
            "number": number,
            "bill": bill.number,
            "bill_sha256": bill.sha256,
            **same,
            "reason": reason,
            "lines": lines,
            "total": str(total),
            "tax": tax,
            "payable": str(payable),
            "issued_at": now.isoformat(timespec="seconds"),
            "issued_by": actor,
        }
    )
    note = CreditNote(
        number=number,
        bill_number=bill.number,
        total=total,
        currency=bill.currency,
        reason=reason,
        document=document,
        sha256=sha256(document),
        issued_at=now,
        issued_by=actor,
        operation_id=claim.operation_id,
    )
    session.add(note)
    operations.close(session, claim, result={"credit_note": number})
    return _credited(note, bill.month, tenant)
