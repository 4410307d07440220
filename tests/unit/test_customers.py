"""Both sides of a bill, and its tax: on what is issued, to the cent, and back again."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from tests.unit.ledger import ACTOR, SELLER, Ledger
from tests.unit.test_credit import HISTORY
from vdc.billing import read_bill
from vdc.crediting import issue_credit_note, read_credit_note
from vdc.customers import change_customer, credited_tax, tax_on
from vdc.errors import Invalid, NotFound
from vdc.inventory import read_session, write_session
from vdc.schema import Operation, Tenant

VAT: dict[str, Any] = {"legal_name": "ACME S.L.", "tax_name": "VAT", "tax_percent": Decimal(21)}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger.create(tmp_path)
    made.write(*HISTORY)
    return made


def change(ledger: Ledger, **values: Any) -> list[str]:
    with write_session(ledger.url) as session:
        return change_customer(session, "acme", values, actor=ACTOR)


def test_a_bill_says_who_pays_what_to_whom_and_a_credit_note_the_same(ledger: Ledger) -> None:
    assert change(ledger, **VAT) == [
        "legal name: none -> ACME S.L.",
        "tax name: none -> VAT",
        "tax percent: none -> 21",
    ]
    assert change(ledger, **VAT) == []
    ledger.issue("2026-10")
    change(ledger, legal_name="Another S.L.", tax_percent=None)
    with write_session(ledger.url) as session:
        issue_credit_note(session, 1, {1: Decimal("1.00")}, "one", actor=ACTOR)
        issue_credit_note(session, 1, None, "the rest", actor=ACTOR)
    with read_session(ledger.url) as session:
        bill = json.loads(read_bill(session, 1)[0].document)
        notes = [json.loads(read_credit_note(session, n)[0].document) for n in (1, 2)]
        journal = session.scalars(select(Operation).where(Operation.kind == "change")).all()
    assert bill["seller"] == {"name": SELLER.name, "address": SELLER.address, "tax_id": SELLER.tax_id}
    assert bill["customer"]["name"] == "ACME S.L."
    assert (bill["total"], bill["tax"]["amount"], bill["payable"]) == ("8.69", "1.82", "10.51")
    assert [(n["total"], n["tax"]["amount"], n["payable"]) for n in notes] == [
        ("1.00", "0.21", "1.21"),
        ("7.69", "1.61", "9.30"),
    ]
    assert {n["customer"]["name"] for n in notes} == {"ACME S.L."}, "of the bill, whatever is said since"
    assert [o.requested_by for o in journal] == [ACTOR, ACTOR]


@given(st.lists(st.decimals("0.01", "99", places=2), min_size=1), st.decimals("0", "100", places=2))
def test_credit_notes_for_a_whole_bill_add_up_to_its_tax(parts: list[Decimal], percent: Decimal) -> None:
    total = sum(parts, Decimal(0))
    billed = {"tax": {"name": "VAT", "percent": str(percent), "amount": str(tax_on(total, percent))}}
    before, back = Decimal(0), Decimal(0)
    for part in parts:
        tax = credited_tax(billed, before, part)
        assert tax is not None
        assert Decimal(tax["amount"]) >= 0
        before, back = before + part, back + Decimal(tax["amount"])
    assert back == Decimal(billed["tax"]["amount"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"tax_percent": Decimal(101), "tax_name": "VAT"}, "from 0 to 100"),
        ({"tax_percent": Decimal(-1), "tax_name": "VAT"}, "from 0 to 100"),
        ({"tax_percent": Decimal("NaN"), "tax_name": "VAT"}, "from 0 to 100"),
        ({"tax_percent": Decimal("0.00001"), "tax_name": "VAT"}, "at most 4 decimal places"),
        ({"tax_percent": Decimal(21)}, "needs a name"),
        ({"monthly_budget": Decimal(-1)}, "monthly budget -1 is refused"),
        ({"legal_name": "x" * 201}, "at most 200"),
        ({"postal_address": "a\x00b"}, "printable"),
    ],
)
def test_what_cannot_be_is_refused(ledger: Ledger, values: dict[str, Any], says: str) -> None:
    with pytest.raises(Invalid, match=says):
        change(ledger, **values)
    with read_session(ledger.url) as session:
        tenant = session.scalars(select(Tenant).where(Tenant.name == "acme")).one()
        assert (tenant.tax_percent, tenant.monthly_budget, tenant.legal_name) == (None, None, "")


def test_an_unknown_tenant_is_refused(ledger: Ledger) -> None:
    with write_session(ledger.url) as session, pytest.raises(NotFound, match="no tenant 'nobody'"):
        change_customer(session, "nobody", VAT, actor=ACTOR)
