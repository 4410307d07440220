"""What is behind a line of a bill."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from reports.explain import Explained, arithmetic, explain
from tests.unit.histories import event
from tests.unit.ledger import Ledger
from vdc.billing import read_bill
from vdc.errors import NotFound
from vdc.inventory import read_session

HISTORY = [
    event("db", "created", "2026-08-01T00:00:00+02:00"),
    event("db", "started", "2026-08-01T00:00:00+02:00"),
    event("db", "stopped", "2026-10-05T08:30:00+02:00"),
    event("db", "started", "2026-10-25T10:00:00+01:00"),
    event("db", "resized", "2026-10-26T10:00:00+01:00", vcpu=4),
]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    made = Ledger.create(tmp_path_factory.mktemp("ledger"))
    made.write(*HISTORY)
    made.issue("2026-10")
    return made


def explained(ledger: Ledger, what: str, nth: int = 0) -> Explained:
    with read_session(ledger.url) as session:
        document = json.loads(read_bill(session, 1)[0].document)
        numbers = [n for n, line in enumerate(document["lines"], 1) if line["what"] == what]
        return explain(session, document, numbers[nth])


def test_a_line_that_began_before_the_month(ledger: Ledger) -> None:
    found = explained(ledger, "vCPU", 0)
    assert [(e["event"], e["means"], e["operation"]) for e in found.events] == [
        ("created", "before", "deploy"),
        ("started", "before", "power"),
        ("stopped", "ends it", "power"),
    ]
    assert found.events[2]["at"] == "2026-10-05T08:30:00+02:00"
    assert (found.events[0]["requested_by"], found.events[0]["flow_run_id"]) == ("ada", "run-created")
    assert found.words == ["It was so before the month began: the line begins with the month."]
    assert found.arithmetic == ("104.5 hours x 1 vCPU x 0.008 = 0.836, to the cent = 0.84 EUR")
    assert found.follows


def test_a_line_that_a_start_began_and_a_resize_ended(ledger: Ledger) -> None:
    found = explained(ledger, "vCPU", 1)
    assert [(e["event"], e["means"], e["vcpu"]) for e in found.events] == [
        ("started", "begins it", 1),
        ("resized", "ends it", 4),
    ]
    assert found.words == []
    last = explained(ledger, "vCPU", 2)
    assert [(e["event"], e["means"]) for e in last.events] == [
        ("started", "before"),
        ("resized", "begins it"),
    ]
    assert last.words == ["It is so still: the line ends with the month."]


def test_a_disk_has_one_line_and_all_that_happened_meanwhile(ledger: Ledger) -> None:
    found = explained(ledger, "disk")
    assert [e["means"] for e in found.events] == ["before", "before", "during", "during", "during"]
    assert found.arithmetic == "745 hours x 10 GiB x 0.05 / 745 hours of the month = 0.50 EUR"


def test_every_line_of_the_bill_follows_from_its_arithmetic(ledger: Ledger) -> None:
    with read_session(ledger.url) as session:
        document = json.loads(read_bill(session, 1)[0].document)
        found = [explain(session, document, n) for n in range(1, len(document["lines"]) + 1)]
    assert found
    assert all(line.follows for line in found)


def test_an_amount_that_does_not_follow_is_seen() -> None:
    day = {"from": "2026-10-01T00:00:00+02:00", "to": "2026-10-02T00:00:00+02:00"}
    line = day | {"quantity": "2", "unit": "vCPU", "unit_price": "0.5", "per": "vCPU hour", "amount": "25.00"}
    assert arithmetic(line, "745", "EUR") == ("24 hours x 2 vCPU x 0.5 = 24.00 EUR", Decimal("24.00"))


@pytest.mark.parametrize("number", [0, 99, -1])
def test_a_line_that_is_not_there_is_refused(ledger: Ledger, number: int) -> None:
    with read_session(ledger.url) as session:
        document = json.loads(read_bill(session, 1)[0].document)
        with pytest.raises(NotFound, match=f"Bill 1 of tenant acme has no line {number}: it has lines 1 to"):
            explain(session, document, number)
