"""Tariffs that are kept: versions, whose they are, and which plans and bills use."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from interfaces.cli.main import cli
from tests.unit.histories import event
from tests.unit.ledger import Ledger
from vdc.errors import Conflict, InvalidState, NotFound, VdcError
from vdc.inventory import read_session, write_session
from vdc.names import find
from vdc.schema import Operation, Tenant
from vdc.tariff import Tariff
from vdc.tariff_file import Version, load_version
from vdc.tariffs import add_tariff, in_force, read_tariffs

TOML = """
vcpu_hour = 0.0{n}
memory_gib_hour = 0.004
disk_gib_month = 0.05
ec2_margin = 1.2
currency = "EUR"
"""


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    made = Ledger.create(tmp_path)
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    monkeypatch.setenv("VDC_DATABASE_URL", made.url)
    return made


def tariff(directory: Path, n: int, *more: str, after: str = "") -> Path:
    file = directory / f"t{n}.toml"
    file.write_text("\n".join(more) + TOML.format(n=n) + after)
    return file


def vdc(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_what_is_kept_is_listed_shown_and_never_changed(ledger: Ledger, tmp_path: Path) -> None:
    assert "None is kept" in vdc("tariff", "list")
    first = tariff(tmp_path, 1, "valid_from = 2030-01-01", after='[[flat]]\nname = "Support"\nmonth = 7')
    assert vdc("tariff", "add", str(first)) == "Tariff 1 is kept: default, from 2030-01-01.\n"
    assert "Tariff 1 is kept" in vdc("tariff", "add", str(first)), "the same again is the one that is there"
    with pytest.raises(Conflict, match="Tariff 1 is for the same time"):
        vdc("tariff", "add", str(tariff(tmp_path, 2, "valid_from = 2030-01-01")))
    own = tariff(tmp_path, 3, 'tenant = "acme"', "valid_from = 2030-01-01")
    assert json.loads(vdc("tariff", "add", str(own), "--json"))["number"] == 2
    rows = json.loads(vdc("tariff", "list", "--json"))
    assert [(r["number"], r["tenant"], r["valid_from"]) for r in rows] == [
        (1, None, "2030-01-01"),
        (2, "acme", "2030-01-01"),
    ]
    assert [r["number"] for r in json.loads(vdc("tariff", "list", "--tenant", "acme", "--json"))] == [2]
    shown = json.loads(vdc("tariff", "show", "1", "--json"))
    assert (shown["vcpu_hour"], shown["flat"]) == ("0.01", [{"name": "Support", "month": "7"}])
    assert "name Support, month 7" in vdc("tariff", "show", "1")
    with read_session(ledger.url) as session:
        assert read_tariffs(session)[0].version == load_version(first)
        assert session.query(Operation).filter(Operation.kind == "create").filter(
            Operation.object == "tariff/1"
        ).count() == 1  # fmt: skip
    with pytest.raises(NotFound, match="no tariff 9"):
        vdc("tariff", "show", "9")
    with pytest.raises(VdcError, match="no tenant 'nobody'"):
        vdc("tariff", "add", str(tariff(tmp_path, 4, 'tenant = "nobody"')))


def test_a_tenant_pays_by_its_own_then_everyones_then_the_list_prices(ledger: Ledger) -> None:
    def of(price: str) -> Tariff:
        return Tariff(vcpu_hour=Decimal(price))

    def paid(now: datetime) -> Decimal:
        with read_session(ledger.url) as session:
            return in_force(session, find(session, Tenant, "tenant", "acme"), of("1"), now).vcpu_hour

    with write_session(ledger.url) as session:
        add_tariff(session, Version(of("2"), "", datetime(2026, 10, 1, tzinfo=UTC).date()), actor="ada")
        begin, end = datetime(2026, 10, 15, tzinfo=UTC).date(), datetime(2026, 10, 20, tzinfo=UTC).date()
        add_tariff(session, Version(of("3"), "acme", begin, end), actor="ada")
    # In Madrid a day begins two hours earlier than in Greenwich.
    assert paid(datetime(2026, 9, 30, 21, 59, tzinfo=UTC)) == 1
    assert paid(datetime(2026, 9, 30, 22, tzinfo=UTC)) == 2
    assert paid(datetime(2026, 10, 14, 22, tzinfo=UTC)) == 3
    assert paid(datetime(2026, 10, 19, 22, tzinfo=UTC)) == 2


def test_a_month_that_was_billed_is_not_priced_anew(ledger: Ledger) -> None:
    ledger.write(
        event("web", "created", "2026-09-10T00:00:00+02:00"),
        event("web", "started", "2026-09-10T00:00:00+02:00"),
    )
    ledger.issue("2026-10")
    day = datetime(2026, 10, 31, tzinfo=UTC).date()
    with write_session(ledger.url, commit=False) as session:
        for version in (Version(Tariff(), "", day), Version(Tariff()), Version(Tariff(), "acme", day)):
            with pytest.raises(InvalidState, match="in force in 2026-10, and that month of tenant"):
                add_tariff(session, version, actor="ada")
        later = datetime(2026, 11, 1, tzinfo=UTC).date()
        assert add_tariff(session, Version(Tariff(), "", later), actor="ada").number == 1
