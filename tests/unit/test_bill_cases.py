"""Bills of what happens to machines, each by name; and the same through `vdc bill simulate`, from files."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from interfaces.cli.main import cli
from reports.bill import bills
from tests.unit.histories import TENANT, event, frame
from vdc.billed import Billed
from vdc.errors import Invalid, VdcError
from vdc.months import Month
from vdc.tariff import Shares, Tariff
from vdc.tariff_book import TariffBook
from vdc.tariff_file import Version

OCTOBER = Month(2026, 10)
PRICES = Tariff(
    vcpu_hour=Decimal("0.01"),
    memory_gib_hour=Decimal("0.001"),
    disk_gib_month=Decimal("7.45"),  # 0.01 an hour in October
    snapshot_gib_month=Decimal("7.45"),
    address_hour=Decimal("0.005"),
    licence_hour={"windows": Decimal("0.03")},
)
SMALL = {"vcpu": 1, "memory_mib": 1024, "disk_mib": 1024}
Line = tuple[str, str, str, str, str, str]


def at(day: int, hour: int = 0) -> str:
    return f"2026-10-{day:02}T{hour:02}:00:00{'+02:00' if day <= 25 else '+01:00'}"


def running(name: str = "web", day: int = 1, **told: Any) -> list[tuple[Any, ...]]:
    return [event(name, kind, at(day), **SMALL | told) for kind in ("created", "started")]


def lines(
    *rows: tuple[Any, ...], what: str = "", book: TariffBook | None = None, tenant: str = TENANT
) -> list[Line]:
    """What, from and to (day and hour), quantity, price and amount; of one thing where it is named."""
    billed = Billed(tenant, tenant, "Europe/Madrid")
    (draft,) = bills(frame(*rows), [billed], OCTOBER, book or TariffBook.always(PRICES), site="site")
    return [
        (x["what"], x["from"][8:13], x["to"][5:13], x["quantity"], x["unit_price"], x["amount"])
        for x in draft.document["lines"]
        if what in ("", x["what"])
    ]


def test_resized_while_it_runs() -> None:
    rows = [*running(), event("web", "resized", at(11), vcpu=4, memory_mib=1024, disk_mib=1024)]
    assert lines(*rows, what="vCPU") == [
        ("vCPU", "01T00", "10-11T00", "1", "0.01", "2.40"),
        ("vCPU", "11T00", "11-01T00", "4", "0.01", "20.20"),  # 505 hours: the clocks go back
    ]
    assert len(lines(*rows, what="memory")) == 1


def test_powered_off() -> None:
    rows = [*running(), event("web", "stopped", at(11), **SMALL)]
    assert lines(*rows) == [
        ("vCPU", "01T00", "10-11T00", "1", "0.01", "2.40"),
        ("memory", "01T00", "10-11T00", "1", "0.001", "0.24"),
        ("disk", "01T00", "11-01T00", "1", "7.45", "7.45"),
    ]


def test_a_tariff_may_ask_a_share_of_a_machine_that_does_not_run() -> None:
    shares = Shares(vcpu=Decimal("0.5"), memory=Decimal("0.1"), disk=Decimal(0))
    tariff = Tariff(Decimal("0.01"), Decimal("0.001"), stopped=shares, suspended=Shares(memory=Decimal(1)))
    rows = [
        *running(day=1),
        event("web", "stopped", at(2), **SMALL),
        event("web", "suspended", at(3), **SMALL),
        event("web", "terminated", at(4), **SMALL),
    ]
    book = TariffBook.always(tariff)
    assert [x[:5] for x in lines(*rows, book=book)] == [
        ("vCPU", "01T00", "10-02T00", "1", "0.01"),
        ("vCPU", "02T00", "10-03T00", "1", "0.005"),
        ("memory", "01T00", "10-02T00", "1", "0.001"),
        ("memory", "02T00", "10-03T00", "1", "0.0001"),
        ("memory", "03T00", "10-04T00", "1", "0.001"),
        ("disk", "01T00", "10-02T00", "1", "0.05"),
        ("disk", "03T00", "10-04T00", "1", "0.05"),
    ]


def test_suspended_and_resumed() -> None:
    rows = [
        *running(),
        event("web", "suspended", at(11), **SMALL),
        event("web", "resumed", at(21), **SMALL),
        event("web", "terminated", at(22), **SMALL),
    ]
    assert [x[1:3] for x in lines(*rows, what="memory")] == [("01T00", "10-11T00"), ("21T00", "10-22T00")]
    assert [x[1:3] for x in lines(*rows, what="disk")] == [("01T00", "10-22T00")]


def test_a_host_that_was_lost_ends_the_charge_when_it_was_last_seen() -> None:
    rows = [*running(), event("web", "lost", at(11), **SMALL)]
    assert [x[1:3] for x in lines(*rows, what="vCPU")] == [("01T00", "10-11T00")]
    rows.append(event("web", "started", at(12), **SMALL))
    assert [x[1:3] for x in lines(*rows, what="vCPU")] == [("01T00", "10-11T00"), ("12T00", "11-01T00")]


def test_another_owner_pays_from_then_on() -> None:
    rows = [*running(), event("web", "owner-changed", at(11), **SMALL, tenant="t-beta")]
    assert lines(*rows, what="vCPU") == [("vCPU", "01T00", "10-11T00", "1", "0.01", "2.40")]
    assert lines(*rows, what="vCPU", tenant="t-beta") == [("vCPU", "11T00", "11-01T00", "1", "0.01", "5.05")]


def test_snapshots_are_paid_as_they_grow_and_go() -> None:
    rows = [
        *running(),
        event("web", "snapshot-taken", at(2), **SMALL, snapshot_mib=1024),
        event("web", "stopped", at(3), **SMALL),
        event("web", "snapshot-taken", at(4), **SMALL, snapshot_mib=3072),
        event("web", "snapshot-removed", at(5), **SMALL, snapshot_mib=0),
    ]
    assert lines(*rows, what="snapshots") == [
        ("snapshots", "02T00", "10-04T00", "1", "7.45", "0.48"),
        ("snapshots", "04T00", "10-05T00", "3", "7.45", "0.72"),
    ]


def test_addresses_and_licences() -> None:
    rows = [
        *running(addresses=1, image="windows"),
        event("web", "address-leased", at(2), **SMALL, addresses=2),
        event("web", "stopped", at(3), **SMALL),
        event("web", "address-released", at(4), **SMALL, addresses=0),
    ]
    assert lines(*rows, what="public address") == [
        ("public address", "01T00", "10-02T00", "1", "0.005", "0.12"),
        ("public address", "02T00", "10-04T00", "2", "0.005", "0.48"),
    ]
    assert lines(*rows, what="licence") == [("licence", "01T00", "10-03T00", "1", "0.03", "1.44")]


def test_an_image_is_paid_while_it_is_stored() -> None:
    def image(kind: str, when: str) -> tuple[Any, ...]:
        return (TENANT, "i", "golden", kind, when, 0, 0, 2048, "image", None)

    tariff = Tariff(image_gib_month=Decimal("7.45"))
    rows = [image("stored", at(2)), image("removed", at(4))]
    assert lines(*rows, book=TariffBook.always(tariff)) == [
        ("image", "02T00", "10-04T00", "2", "7.45", "0.96")
    ]


def test_on_hold_a_machine_that_was_never_made_pays_for_its_place_alone() -> None:
    share = Decimal("0.5")
    book = TariffBook.always(Tariff(Decimal("0.01"), held=Shares(vcpu=share)))
    rows = [event("web", "held", at(1), **SMALL)]
    assert lines(*rows) == [], "nothing, where the tariff does not say so"
    assert [x[:5] for x in lines(*rows, book=book)] == [("vCPU", "01T00", "11-01T00", "1", "0.005")]
    rows += [event("web", kind, at(3), **SMALL) for kind in ("created", "started")]
    assert [x[:3] for x in lines(*rows, what="disk")] == [("disk", "03T00", "11-01T00")]


def test_a_tariff_that_changes_on_the_15th_splits_the_line() -> None:
    dearer = Version(Tariff(Decimal("0.02")), valid_from=date(2026, 10, 15))
    book = TariffBook.of([Version(PRICES), dearer])
    assert lines(*running(), what="vCPU", book=book) == [
        ("vCPU", "01T00", "10-15T00", "1", "0.01", "3.36"),
        ("vCPU", "15T00", "11-01T00", "1", "0.02", "8.18"),  # 409 hours
    ]


def test_a_tenants_own_tariff_comes_before_everyones() -> None:
    own = Version(Tariff(Decimal("0.02")), TENANT, date(2026, 10, 5), date(2026, 10, 15))
    later = Version(Tariff(Decimal("0.03")), "", date(2026, 10, 10))
    book = TariffBook.of([Version(PRICES), own, later])
    assert [x[1:5] for x in lines(*running(), what="vCPU", book=book)] == [
        ("01T00", "10-05T00", "1", "0.01"),
        ("05T00", "10-15T00", "1", "0.02"),
        ("15T00", "11-01T00", "1", "0.03"),
    ]
    with pytest.raises(Invalid, match="No tariff is in force for tenant t-acme on 2026-10-01"):
        lines(*running(), book=TariffBook.of([later]))
    francs = Version(Tariff(currency="CHF"), "", date(2026, 10, 10))
    with pytest.raises(Invalid, match="a currency changes on the 1st"):
        lines(*running(), book=TariffBook.of([Version(PRICES), francs]))
    with pytest.raises(Invalid, match="Two tariffs are given for the same time: default, from 2026-10-10"):
        TariffBook.of([later, francs])


def test_the_clocks_go_back() -> None:
    (line,) = lines(*running(), what="vCPU")
    assert line == ("vCPU", "01T00", "11-01T00", "1", "0.01", "7.45")


def test_never_started_gone_within_a_second_and_open() -> None:
    rows = [
        event("never", "created", at(1), **SMALL),
        *running("blip"),
        event("blip", "terminated", "2026-10-01T00:00:00.400000+02:00", **SMALL),
        *running("open", 31),
    ]
    assert [(x[0], x[2], x[5]) for x in lines(*rows)] == [
        ("vCPU", "10-01T00", "0.00"),
        ("memory", "10-01T00", "0.00"),
        ("disk", "10-01T00", "0.00"),
        ("disk", "11-01T00", "7.45"),
        ("vCPU", "11-01T00", "0.24"),
        ("memory", "11-01T00", "0.02"),
        ("disk", "11-01T00", "0.24"),
    ]


# -- from files -------------------------------------------------------------------------------------------

HISTORY = """at,kind,machine,tenant,vcpu,memory_mib,disk_mib,bytes
2026-10-01T00:00:00+02:00,created,web,acme,1,1024,1024,
2026-10-01T00:00:00+02:00,started,web,,,,,
2026-10-11T00:00:00+02:00,resized,web,,4,,,
2026-10-11T00:00:00+02:00,resized,web,,4,,,
2026-10-20T00:00:00+02:00,owner-changed,web,beta,,,,
2026-10-12T00:00:00+02:00,traffic,web,,,,,1073741824
"""
TARIFF = """vcpu_hour = 0.01
memory_gib_hour = 0.001
disk_gib_month = 7.45
traffic_gib = 0.1
ec2_margin = 1
currency = "EUR"
"""


def simulate(
    directory: Path, history: str = HISTORY, *more: str, tariff: str = TARIFF, name: str = "e.csv"
) -> Any:
    (directory / name).write_text(history)
    (directory / "t.toml").write_text(tariff)
    files = ["--events", str(directory / name), "--tariff", str(directory / "t.toml")]
    month = [] if "--month" in more else ["--month", "2026-10"]
    zone = [] if "--time-zone" in more else ["--time-zone", "Europe/Madrid"]
    done = CliRunner().invoke(cli, ["bill", "simulate", *files, *month, *zone, *more])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_a_history_in_a_file_is_billed_without_an_inventory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDC_HOME", str(tmp_path / "none"))
    documents = json.loads(simulate(tmp_path, HISTORY, "--json"))
    assert [(d["tenant"], d["kind"], d["total"]) for d in documents] == [
        ("acme", "simulation", "16.16"),  # vCPU 2.40 + 8.64, memory 0.46, disk 4.56, traffic 0.10
        ("beta", "simulation", "14.74"),  # of 289 hours: 11.56 + 0.29 + 2.89
    ]
    rows = [
        dict(zip(HISTORY.splitlines()[0].split(","), x.split(","), strict=True))
        for x in HISTORY.splitlines()[1:]
    ]
    as_json = "\n".join(json.dumps({k: v for k, v in row.items() if v}) for row in reversed(rows))
    assert json.loads(simulate(tmp_path, as_json, "--json", name="e.jsonl")) == documents, (
        "another order, as JSON"
    )
    alone = json.loads(simulate(tmp_path, HISTORY, "--json", "--tenant", "beta"))
    assert alone == documents[1:]
    assert "Simulation, not a bill. Tenant acme, 2026-10 (Europe/Madrid)." in simulate(tmp_path)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("started", "begun", "line 3: kind 'begun' is none of created, stored"),
        ("2026-10-11T00:00:00+02:00", "2026-10-11T00:00:00", "line 4: at '2026-10-11T00:00:00' has no"),
        ("2026-10-11T00:00:00+02:00", "yesterday", "line 4: at 'yesterday' is no instant"),
        ("acme,1,1024", "acme,-1,1024", "line 2: vcpu -1 is negative"),
        ("acme,1,1024", "acme,1.5,1024", "line 2: vcpu '1.5' is no whole number"),
        ("resized,web,,4", "resized,,,4", "line 4: it names no machine"),
        ("1073741824", "", "line 7: traffic without bytes"),
        ("web,,4,,,", "web,,4,,,7", "line 4: bytes are of traffic, not of 'resized'"),
        ("acme,1,1024,1024", "acme,,1024,1024", "line 3: web runs, and its vcpu is never told|"),
        ("2026-10-20T00:00:00+02:00,owner-changed,web,beta", "2026-09-20T00:00:00+02:00,terminated,web,",
         "line 6: web ends before it begins"),
        ("owner-changed,web,beta", "owner-changed,web,", "line 6: web changes its owner to no tenant"),
        ("created,web,acme", "created,web,", "line 2: whose web is, is told later alone"),
        ("at,kind", "when,kind", "unknown: when; missing: at"),
    ],
)  # fmt: skip
def test_a_history_that_cannot_be_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    history = HISTORY if "vcpu is never" not in says else HISTORY.replace("web,,4", "web,,")
    with pytest.raises(Invalid) as refused:
        simulate(tmp_path, history.replace(old, new))
    assert says.rstrip("|") in str(refused.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--month", "2026-13"), "Month '2026-13' is refused"),
        (("--time-zone", "Mars/Olympus"), "Time zone 'Mars/Olympus' is none"),
        (("--tenant", "nobody"), "no tenant 'nobody'. Known: acme, beta."),
    ],
)
def test_what_cannot_be_simulated_is_refused(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    with pytest.raises(VdcError) as refused:
        simulate(tmp_path, HISTORY, *options)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("name", "history", "says"),
    [
        ("e.txt", HISTORY, "its name must end in .csv, .jsonl or .ndjson"),
        ("e.csv", "", "is not CSV with a row of headings"),
        ("e.jsonl", "{", "line 1, is not JSON"),
        ("e.jsonl", "[1]", "line 1, is refused: it must be an object"),
    ],
)
def test_what_is_no_history_is_refused(tmp_path: Path, name: str, history: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        simulate(tmp_path, history, name=name)
