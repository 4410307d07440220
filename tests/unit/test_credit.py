"""Credit notes: what is given back is at most what was billed, once, and for a reason."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from reports import files
from tests.unit.histories import event
from tests.unit.ledger import ACTOR, Ledger
from vdc.bill_check import check_file, check_issued
from vdc.billing import read_bill
from vdc.crediting import Credited, issue_credit_note, read_credit_note, read_credited_lines, read_credits
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, VdcError
from vdc.inventory import read_session, write_session
from vdc.schema import Bill, CreditNote, Operation

HISTORY = [
    event("web", "created", "2026-10-03T00:00:00+02:00", vcpu=2),
    event("web", "started", "2026-10-03T00:00:00+02:00", vcpu=2),
    event("web", "terminated", "2026-10-20T12:30:00+02:00", vcpu=2),
]
VCPU, MEMORY, DISK = Decimal("6.73"), Decimal("1.68"), Decimal("0.28")
"""420.5 hours (17 days and 12 h 30 min): x 2 x 0.008; x 1 x 0.004; x 10 x 0.05 / 745."""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    made = Ledger.create(tmp_path_factory.mktemp("ledger"))
    made.write(*HISTORY)
    (bill,) = (bill for bill in made.issue("2026-10") if bill.number)
    assert (bill.number, bill.total) == (1, VCPU + MEMORY + DISK)
    return made


@pytest.fixture
def ledger(issued: Ledger, tmp_path: Path) -> Ledger:
    return issued.copy(tmp_path)


def credit(ledger: Ledger, lines: Any, reason: str = "The host was lost", bill: int = 1) -> Credited:
    with write_session(ledger.url) as session:
        return issue_credit_note(session, bill, lines, reason, actor=ACTOR)


def rows(ledger: Ledger) -> list[Any]:
    with read_session(ledger.url) as session:
        return [
            [str(row) for row in session.execute(select(table.__table__))]
            for table in (Bill, CreditNote, Operation)
        ]


def test_of_chosen_lines_and_then_of_what_is_left(ledger: Ledger) -> None:
    with read_session(ledger.url) as session:
        before = read_bill(session, 1)[0].document
    first = credit(ledger, {1: Decimal("1.50"), 3: None})
    assert (first.number, first.bill, first.total) == (1, 1, Decimal("1.50") + DISK)
    rest = credit(ledger, None, "Goodwill")
    assert (rest.number, rest.total) == (2, VCPU - Decimal("1.50") + MEMORY)
    with read_session(ledger.url) as session:
        assert read_bill(session, 1)[0].document == before, "the bill itself stays as it is"
        assert read_credited_lines(session, 1) == {1: VCPU, 2: MEMORY, 3: DISK}
        assert [(n.number, n.reason) for n in read_credits(session, tenant="acme", bill=1)] == [
            (1, "The host was lost"),
            (2, "Goodwill"),
        ]
        assert read_credits(session, tenant="default") == []
        document = json.loads(read_credit_note(session, 1)[0].document)
        done = session.scalars(select(Operation).where(Operation.kind == "credit")).all()
    assert (document["bill"], document["reason"], document["issued_by"]) == (1, "The host was lost", ACTOR)
    assert [(x["line"], x["what"], x["billed"], x["amount"]) for x in document["lines"]] == [
        (1, "vCPU", "6.73", "1.50"),
        (3, "disk", "0.28", "0.28"),
    ]
    assert [(o.object, o.requested_by, o.outcome) for o in done] == [("bill/1", ACTOR, "done")] * 2
    with pytest.raises(InvalidState, match="Nothing is left to give back of bill 1"):
        credit(ledger, None, "Again")


@pytest.mark.parametrize(
    ("lines", "reason", "bill", "error", "says"),
    [
        ({1: Decimal("6.74")}, "x", 1, InvalidState, r"Line 1 of bill 1: 6.74 is more than the 6.73"),
        ({4: None}, "x", 1, NotFound, "Bill 1 has no line 4: it has lines 1 to 3"),
        ({0: None}, "x", 1, NotFound, "no line 0"),
        ({1: Decimal(0)}, "x", 1, Invalid, "above 0"),
        ({1: Decimal("-1")}, "x", 1, Invalid, "above 0"),
        ({1: Decimal("NaN")}, "x", 1, Invalid, "above 0"),
        ({1: Decimal("0.001")}, "x", 1, Invalid, "whole cents"),
        ({1: None}, "  ", 1, Invalid, "needs a reason"),
        ({1: None}, "x" * 501, 1, Invalid, "at most 500"),
        ({}, "x", 1, InvalidState, "Nothing is left"),
        ({1: None}, "x", 2, NotFound, "There is no bill 2. The last is 1."),
    ],
)
def test_what_cannot_be_given_back_is_refused(
    ledger: Ledger, lines: Any, reason: str, bill: int, error: type[VdcError], says: str
) -> None:
    before = rows(ledger)
    with pytest.raises(error, match=says):
        credit(ledger, lines, reason, bill)
    assert rows(ledger) == before


def test_the_same_asked_twice_is_refused_and_takes_no_number(ledger: Ledger) -> None:
    credit(ledger, {1: Decimal("1.00")})
    with pytest.raises(Conflict, match="Credit note 1 gives back the same of bill 1"):
        credit(ledger, {1: Decimal("1.00")}, "  The host  was lost ")
    assert credit(ledger, {1: Decimal("1.00")}, "And a second time").number == 2


def test_a_bill_that_was_changed_gives_nothing_back(ledger: Ledger) -> None:
    with write_session(ledger.url) as session:
        session.execute(update(Bill).values(document=Bill.document + " "))
    with pytest.raises(VdcError, match="not what was issued"):
        credit(ledger, {1: None})


given_back = st.one_of(st.none(), st.decimals("0.01", "7", places=2))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.integers(1, 3), given_back, min_size=1)))
def test_never_more_than_was_billed(issued: Ledger, asked: list[dict[int, Decimal | None]]) -> None:
    with write_session(issued.url, commit=False) as session:
        for n, lines in enumerate(asked):
            try:
                issue_credit_note(session, 1, lines, f"reason {n}", actor=ACTOR)
            except InvalidState:
                pass  # more than is left
        of_line, notes = read_credited_lines(session, 1), read_credits(session)
        assert not [c.problems for c in check_issued(session) if c.problems]
    for line, billed in ((1, VCPU), (2, MEMORY), (3, DISK)):
        assert 0 <= of_line.get(line, Decimal(0)) <= billed
    assert [note.number for note in notes] == list(range(1, len(notes) + 1))
    assert sum(of_line.values(), Decimal(0)) == sum((n.total for n in notes), Decimal(0))


# -- verify -----------------------------------------------------------------------------------------------


def problems(ledger: Ledger) -> dict[tuple[str, int | None], list[str]]:
    with read_session(ledger.url) as session:
        return {(c.kind, c.number): c.problems for c in check_issued(session)}


def test_all_is_as_it_was_issued(ledger: Ledger) -> None:
    credit(ledger, {1: None})
    assert problems(ledger) == {("bill", 1): [], ("credit note", 1): []}


@pytest.mark.parametrize(
    ("table", "values", "key", "says"),
    [
        (Bill, {"document": Bill.document.concat(" ")}, ("bill", 1), "its checksum is"),
        (Bill, {"document": "{}"}, ("bill", 1), "no document any more"),
        (Bill, {"total": Decimal("1.00")}, ("bill", 1), "its total is 8.69, the inventory says 1.00"),
        (Bill, {"month": "2026-09"}, ("bill", 1), "its month is 2026-10, the inventory says 2026-09"),
        (Bill, {"sha256": "0" * 64}, ("bill", 1), "its checksum is"),
        (CreditNote, {"reason": "another"}, ("credit note", 1), "the inventory says another"),
        (CreditNote, {"number": 3}, ("credit note", 2), "it is missing"),
    ],
)
def test_whatever_was_changed_is_found(
    ledger: Ledger, table: Any, values: dict[str, Any], key: tuple[str, int], says: str
) -> None:
    credit(ledger, {1: None})
    with write_session(ledger.url) as session:
        session.execute(update(table).values(values))
    assert any(says in problem for problem in problems(ledger)[key])


def test_a_file_is_checked_against_what_was_issued(ledger: Ledger, tmp_path: Path) -> None:
    credit(ledger, {1: None})
    with read_session(ledger.url) as session:
        bill, note = read_bill(session, 1)[0].document, read_credit_note(session, 1)[0].document
        indented = json.dumps(json.loads(bill), indent=4)
        assert [check_file(session, text).problems for text in (bill, note, indented)] == [[], [], []]
        for text, says in (
            (bill.replace("6.73", "5.73"), "the checksum of what was issued is"),
            (bill.replace('"number":1', '"number":7'), "no document of this number"),
            (bill.replace('"kind":"bill"', '"kind":"preview"'), "never issued"),
            ("{", "it is no bill"),
            ("[1]", "it is no bill"),
            ('{"kind": ["x"], "number": 1}', "never issued"),
        ):
            assert says in check_file(session, text).problems[0]
    json_file, csv_file = files.write(json.loads(note), tmp_path / "out", note)[:2]
    assert json_file.name == "credit-note-1-acme-2026-10.json"
    assert json_file.read_text() == note
    assert csv_file.read_text().splitlines()[1].endswith(",6.73,6.73,EUR,The host was lost")
