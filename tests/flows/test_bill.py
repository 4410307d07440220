"""Issuing bills through the flow: what is issued stays, and what cannot be closed is refused."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select, update

from reports import files
from tests.flows import run
from tests.flows.site import Site, once
from vdc import catalog
from vdc.billing import claim_bills, read_bill, read_issued, read_site, record_bills
from vdc.errors import Conflict, Invalid, InvalidState, NotFound, Superseded, VdcError
from vdc.inventory import read_session, write_session
from vdc.months import Month
from vdc.operations import Opening, open_one
from vdc.requests import BillRequest
from vdc.schema import Bill, Operation, UsageEvent, Vm, utc_now

LAST = Month.of(utc_now(), "UTC").preceding


def at(day: int, hour: int = 0) -> datetime:
    """An instant in the month that is over."""
    return datetime(LAST.year, LAST.month, day, hour, tzinfo=UTC)


def move(site: Site, name: str, **instants: datetime) -> None:
    """Make events of a machine have happened at these instants."""
    with write_session(site.url) as session:
        vm_id = session.scalars(select(Vm.id).where(Vm.name == name)).one()
        for kind, instant in instants.items():
            session.execute(
                update(UsageEvent)
                .where(UsageEvent.vm_id == vm_id, UsageEvent.kind == kind)
                .values(at=instant)
            )


@pytest.fixture
@once
def used(site: Site) -> Site:
    """Tenant `acme` had a machine for 100 hours of the month that is over, and one that is there still."""
    with write_session(site.url) as session:
        catalog.create_tenant(session, "acme", actor="tester")
        catalog.create_tenant(session, "idle", actor="tester")
        session.execute(update(Operation).values(started_at=at(1) - timedelta(days=1)))
    run.deploy(name="gone", tenant="acme", vcpu=2, memory_mib=1024, disk_mib=10240)
    run.terminate("gone")
    run.deploy(name="still", tenant="acme", vcpu=1, memory_mib=512, disk_mib=1024)
    move(site, "gone", created=at(3), started=at(3), terminated=at(7, 4))
    move(site, "still", created=at(1), started=at(1))
    return site


def bills(site: Site) -> list[str]:
    with read_session(site.url) as session:
        return [bill.document for bill in session.scalars(select(Bill).order_by(Bill.number))]


@pytest.mark.prefect
def test_a_month_is_issued_and_issuing_it_again_gives_the_same(used: Site, tmp_path: Path) -> None:
    first = {bill.tenant: bill for bill in run.bill(str(LAST))}
    assert {tenant: (b.number, b.new) for tenant, b in first.items()} == {
        "acme": (1, True),
        "default": (None, False),
        "idle": (None, False),
    }
    hours = Month.parse(str(LAST)).window("UTC").hours
    # 100 h of 2 vCPU and 1 GiB; the month of 1 vCPU and 0.5 GiB; 10 GiB for 100 h and 1 GiB for the month.
    expected = [
        Decimal("1.60"),
        Decimal("0.40"),
        (Decimal("0.05") * 10 * 100 / hours).quantize(Decimal("0.01")),
        (Decimal("0.008") * hours).quantize(Decimal("0.01")),
        (Decimal("0.002") * hours).quantize(Decimal("0.01")),
        Decimal("0.05"),
    ]
    kept = bills(used)
    document = json.loads(kept[0])
    assert [Decimal(line["amount"]) for line in document["lines"]] == expected
    assert first["acme"].total == sum(expected)
    assert hashlib.sha256(kept[0].encode()).hexdigest() == first["acme"].sha256

    # What is told later, a tariff that changed: the bill is the one that was sent.
    move(used, "gone", terminated=at(20))
    with_other = tmp_path / "dear.toml"
    with_other.write_text(
        'vcpu_hour = 9\nmemory_gib_hour = 9\ndisk_gib_month = 9\nec2_margin = 9\ncurrency = "CHF"\n'
    )
    again = {bill.tenant: bill for bill in run.bill(str(LAST), tariff=str(with_other))}
    assert (again["acme"].number, again["acme"].new) == (1, False)
    assert again["acme"].sha256 == first["acme"].sha256
    assert bills(used) == kept
    assert used.open_operations() == []

    json_file, csv_file, _, page, _ = files.write(document, tmp_path / "out", kept[0])
    assert json_file.read_bytes() == kept[0].encode()
    assert len(csv_file.read_text().splitlines()) == 1 + len(expected)
    assert "Bill 1" in page.read_text()
    assert "Not a bill" not in page.read_text()


def test_numbers_have_no_gap_and_only_a_bill_takes_one(used: Site) -> None:
    before = str(LAST.preceding)
    assert [b.number for b in run.bill(before, tenant="acme")] == [None], "there was no machine yet"
    assert [b.number for b in run.bill(str(LAST), tenant="acme")] == [1]
    run.deploy(name="other", tenant="idle")
    move(used, "other", created=at(2), started=at(2))
    with write_session(used.url) as session:
        session.execute(update(Operation).values(finished_at=utc_now(), open_key=None))
    assert {b.tenant: (b.number, b.new) for b in run.bill(str(LAST))} == {
        "acme": (1, False),
        "default": (None, False),
        "idle": (2, True),
    }
    with read_session(used.url) as session:
        assert [(b.number, b.tenant) for b in read_issued(session)] == [(1, "acme"), (2, "idle")]


@pytest.mark.parametrize(
    ("month", "tenant", "error", "says"),
    [
        (str(LAST.following), "", InvalidState, "is not over"),
        (str(LAST.following.following), "", InvalidState, "has not begun"),
        ("2026-13", "", Invalid, "give year and month"),
        ("october", "", Invalid, "give year and month"),
        (str(LAST), "nobody", NotFound, "no tenant 'nobody'"),
    ],
)
def test_what_cannot_be_issued_is_refused(
    used: Site, month: str, tenant: str, error: type[VdcError], says: str
) -> None:
    before = used.rows()
    with pytest.raises(error, match=says):
        run.bill(month, tenant=tenant)
    assert used.rows() == before


def test_a_month_is_over_when_it_is_over_for_the_tenant(site: Site) -> None:
    """In Honolulu a month ends ten hours after it did in Greenwich."""
    with write_session(site.url) as session:
        catalog.create_tenant(session, "surf", time_zone="Pacific/Honolulu", actor="tester")
    request = BillRequest(month="2026-10", tenant="surf")
    with write_session(site.url, commit=False) as session:
        early = datetime(2026, 11, 1, 9, 59, 59, tzinfo=UTC)
        with pytest.raises(InvalidState, match="ends 2026-11-01 10:00 UTC"):
            claim_bills(session, request, actor="tester", now=early)
        assert claim_bills(session, request, actor="tester", now=early + timedelta(seconds=1)).claim


def test_without_a_month_it_is_the_last_one_that_is_over(used: Site) -> None:
    assert {b.month for b in run.bill("")} == {str(LAST)}


def test_a_month_in_which_something_is_under_way_stays_open(used: Site) -> None:
    with write_session(used.url) as session:
        vm_id = session.scalars(select(Vm.id).where(Vm.name == "still")).one()
        claim = open_one(session, Opening("terminate", "vm", vm_id, "still", {}), actor="tester")
        session.execute(update(Operation).where(Operation.id == claim.operation_id).values(started_at=at(28)))
    with pytest.raises(InvalidState, match="terminate of vm/still began in it and is not over"):
        run.bill(str(LAST), tenant="acme")
    assert bills(used) == []


@pytest.mark.prefect
def test_one_process_issues_a_month(used: Site) -> None:
    request = BillRequest(month=str(LAST))
    with write_session(used.url) as session:
        claim = claim_bills(session, request, actor="tester")
    with pytest.raises(Conflict, match=f"month/{LAST} is busy"):
        run.bill(str(LAST))
    # Whoever lost the operation writes nothing.
    with write_session(used.url) as session:
        session.execute(update(Operation).where(Operation.finished_at.is_(None)).values(epoch=7))
    with pytest.raises(Superseded), write_session(used.url) as session:
        record_bills(session, claim, [], "tester")
    assert bills(used) == []


def test_a_bill_that_was_changed_in_the_database_is_not_shown(used: Site) -> None:
    run.bill(str(LAST))
    with read_session(used.url) as session:
        assert read_bill(session, 1)[1] == "acme"
        assert read_site(session)
        with pytest.raises(NotFound, match="no bill 2"):
            read_bill(session, 2)
    with write_session(used.url) as session:
        session.execute(update(Bill).values(document=bills(used)[0].replace('"acme"', '"acne"')))
    with read_session(used.url) as session, pytest.raises(VdcError, match="not what was issued"):
        read_bill(session, 1)
