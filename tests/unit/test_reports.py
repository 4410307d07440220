"""The administrator's reports: figures that are computed by hand, and pages of them."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import update

from reports.benchmarks import benchmarks, comparison, read_results
from reports.capacity import capacity, history, hosts
from reports.operations import operations
from reports.report import Report
from reports.report_files import write
from reports.report_page import report_page
from reports.tenants import tenants
from reports.trend import trend
from reports.unused import unused
from tests.flows.site import Site
from tests.unit.histories import event
from tests.unit.ledger import LIST_PRICES, Ledger
from tests.unit.test_bill_cli import told, vdc
from vdc.access import Actor, Role, bind
from vdc.errors import Forbidden, Invalid, NotFound
from vdc.inventory import read_session, write_session
from vdc.schema import Disk, Image, Operation, Sample, Snapshot, Vm, Volume
from vdc.tariff import Tariff

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = NOW.date()
GROWS = 20
"""Machines, one more every second day: the last came yesterday."""


def days_ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Two hosts of 8 vCPU; machines that came one after the other, one that is off and one that is idle."""
    made = Site.create(tmp_path_factory.mktemp("site"), memory_mib=128)
    ledger = Ledger(made.url)
    for n in range(GROWS):
        at = days_ago(1 + 2 * n)
        rows = [event(f"m{n:02}", kind, at, memory_mib=512, disk_mib=2048) for kind in ("created", "started")]
        ledger.write(*rows, tenant="default")
    size = {"memory_mib": 512, "disk_mib": 2048}
    ledger.write(event("m19", "stopped", days_ago(20), **size), tenant="default")
    with write_session(made.url) as session:
        session.execute(update(Vm).where(Vm.name == "m19").values(state="stopped"))
        for n in range(GROWS):
            disk = Disk(vm_id=f"id-m{n:02}", index=0, file=f"f{n}", format="qcow2", size_mib=2048)
            session.add(disk)
        # m18 does nothing; m17 works, and was started again, its counters from zero, in between.
        for day in range(15):
            for vm, cpu_s in (("m18", 10.0 * day), ("m17", 20_000.0 * (day if day < 7 else day - 7))):
                row = {"cpu_s": cpu_s, "disk_read_bytes": 0, "disk_write_bytes": 0, "net_rx_bytes": 0}
                session.add(Sample(vm_id=f"id-{vm}", at=days_ago(14 - day), net_tx_bytes=100 * day, **row))
        session.add(Snapshot(vm_id="id-m18", label="old", kind="disk", ready=True, created_at=days_ago(30)))
        session.add(Snapshot(vm_id="id-m18", label="new", kind="disk", ready=True, created_at=days_ago(3)))
        session.execute(update(Image).values(created_at=days_ago(60)))
        image = {
            "datastore_id": session.query(Image.datastore_id).scalar(),
            "state": "ready",
            "format": "raw",
        }
        image |= {"host_id": session.query(Image.host_id).scalar(), "virtual_size_mib": 9, "sha256": ""}
        for name, since in (("old", 30), ("new", 3)):
            kept = {"name": name, "state": "kept", "size_mib": 4096, "created_at": days_ago(since)}
            kept |= {"file": f"{name}.raw", "tenant_id": session.query(Vm.tenant_id).first()[0]}
            session.add(Volume(**kept, **{k: image[k] for k in ("datastore_id", "host_id", "format")}))
        session.add(Image(name="forgotten", file="x", size_mib=7, created_at=days_ago(40), **image))
        session.execute(update(Operation).values(started_at=days_ago(60), finished_at=days_ago(60)))
        for n, (outcome, error) in enumerate([("done", None)] * 9 + [("failed", "h1 is gone\nat step 3")]):
            row = {"object": "vm/x", "object_id": "x", "requested_by": "ada", "spec": {}, "owner": "b/n/1/1"}
            at = days_ago(n + 1)
            operation = Operation(kind="migrate", outcome=outcome, error=error, heartbeat_at=at, **row)
            operation.started_at, operation.finished_at = at, at + timedelta(seconds=n + 1)
            session.add(operation)
    return made


def made(url: str, name: str) -> Report:
    with read_session(url) as session:
        if name == "capacity":
            return capacity(session, NOW)
        if name == "tenants":
            return tenants(session, NOW, LIST_PRICES)
        if name == "unused":
            return unused(session, NOW, Tariff())
        return operations(session, NOW)


# -- trends -----------------------------------------------------------------------------------------------


def test_a_straight_line_runs_out_on_its_day() -> None:
    found = trend([float(n) for n in range(20)], 29.0, TODAY)
    assert (found.per_day, found.runs_out) == (1.0, date(2026, 12, 4))
    assert found.earliest == found.latest == found.runs_out


def test_the_less_sure_the_wider() -> None:
    values = [n + 4 * (-1) ** n for n in range(30)]
    found = trend([float(v) for v in values], 60.0, TODAY)
    assert found.earliest is not None
    assert found.latest is not None
    assert found.runs_out is not None
    assert found.earliest < found.runs_out < found.latest
    assert f"between {found.earliest} and {found.latest}" in found.says


@pytest.mark.parametrize(
    ("values", "limit", "says"),
    [
        ([1.0] * 13, 10.0, "not enough history: 13 days of 14"),
        ([], 10.0, "not enough history: 0 days of 14"),
        ([5.0] * 30, 10.0, "it does not grow"),
        ([30.0 - n for n in range(30)], 100.0, "it does not grow"),
        ([n / 1000 for n in range(30)], 100.0, "not within 730 days"),
        ([1.0] * 30, None, "its capacity is not known"),
    ],
)
def test_what_a_trend_cannot_say_it_does_not(values: list[float], limit: float | None, says: str) -> None:
    found = trend(values, limit, TODAY)
    assert (found.says, found.runs_out) == (says, None)


def test_what_is_full_is_full_however_short_its_history() -> None:
    assert (trend([10.0], 10.0, TODAY).says, trend([10.0], 10.0, TODAY).runs_out) == ("it is used up", TODAY)


# -- figures ----------------------------------------------------------------------------------------------


def test_history_is_what_was_held_at_the_end_of_each_day(site: Site) -> None:
    with read_session(site.url) as session:
        past = history(session, NOW)
    assert past["day"].iloc[-1] == TODAY
    assert past["machines"].iloc[-1] == GROWS
    assert past["machines"].iloc[0] == 1, "it begins with the first machine"
    assert len(past) == 2 * GROWS
    assert list(past["vcpu"]) == list(past["machines"])
    assert list(past["memory_mib"]) == [512 * n for n in past["machines"]]


def test_capacity_says_when_it_runs_out(site: Site) -> None:
    report = made(site.url, "capacity")
    by = {row["resource"]: row for row in report.data()["outlook"]}
    with read_session(site.url) as session:
        limit = hosts(session)["vcpu_limit"].sum()
    assert by["vCPU"]["held"] == GROWS
    assert by["vCPU"]["limit"] == limit
    assert by["vCPU"]["days_of_history"] == 2 * GROWS
    assert by["vCPU"]["per_day"] == pytest.approx(0.5, rel=0.02)
    assert (by["vCPU"]["runs_out"] - TODAY).days == pytest.approx((limit - GROWS) / 0.5, rel=0.03)
    assert by["vCPU"]["earliest"] <= by["vCPU"]["runs_out"] <= by["vCPU"]["latest"]
    assert by["memory MiB"]["per_day"] == pytest.approx(256, rel=0.02)
    assert [row["leased"] for row in report.data()["networks"]] == [0, 0]


def test_tenants_by_cost(site: Site) -> None:
    (row,) = made(site.url, "tenants").data()["tenants"]
    assert (row["tenant"], row["machines"], row["share_percent"]) == ("default", GROWS, 100.0)
    assert row["cost"] > 0
    assert row["forecast"] > row["cost"]


def test_what_is_not_used_is_found_and_nothing_else(site: Site) -> None:
    data = made(site.url, "unused").data()
    assert [(r["machine"], r["days"], r["a_month"]) for r in data["machines_off"]] == [
        ("m19", 20, Decimal("0.10"))
    ]
    assert [(r["machine"], r["cpu_percent"]) for r in data["machines_idle"]] == [("m18", 0.012)]
    assert [(r["disk"], r["days"], r["a_month"]) for r in data["disks"]] == [("old", 30, Decimal("0.20"))]
    assert [r["image"] for r in data["images"]] == ["forgotten"]
    assert [r["snapshot"] for r in data["snapshots"]] == ["old"]


def test_operations_by_kind(site: Site) -> None:
    report = made(site.url, "operations")
    (row,) = report.data()["kinds"]
    assert (row["operations"], row["done"], row["failed"], row["success_percent"]) == (10, 9, 1, 90.0)
    assert (row["p50_s"], row["p95_s"], row["max_s"]) == (5.0, 8.6, 9.0)
    assert report.data()["errors"] == [{"kind": "migrate", "error": "h1 is gone", "operations": 1}]
    assert "9 of 10 operations of the last 30 days were done (90.0%)." in report.words


HEAD = "part,figure,unit,median,min,max,n,target,verdict,date,machine\n"


def results(directory: Path, name: str, *lines: str) -> Path:
    file = directory / name
    file.write_text(HEAD + "\n".join(lines) + "\n")
    return file


def test_benchmarks_of_two_runs(tmp_path: Path) -> None:
    old = results(
        tmp_path, "old.csv",
        'lab,deploy,s,10,9,11,5,,,2026-11-01T00:00:00+00:00,"X, load 1"',
        'lab,list,s,0.4,0.3,0.5,5,<= 0.5,PASS,2026-11-01T00:00:00+00:00,"X, load 1"',
    )  # fmt: skip
    new = results(
        tmp_path, "new.csv",
        'lab,deploy,s,15,14,16,5,,,2026-11-20T00:00:00+00:00,"X, load 2"',
        'lab,list,s,0.45,0.3,0.6,5,<= 0.4,MISS,2026-11-20T00:00:00+00:00,"X, load 2"',
    )  # fmt: skip
    report = benchmarks([new, old], NOW)
    deploy, listing = report.data()["figures"]
    assert (deploy["median"], deploy["before"], deploy["change_percent"], deploy["noise"]) == (
        15,
        10,
        50.0,
        False,
    )
    assert (listing["change_percent"], listing["noise"], listing["target"]) == (12.5, True, "<= 0.4")
    assert report.words == [
        "1 of 1 targets are missed.",
        "Missed: lab, list: 0.45 s, <= 0.4.",
        "1 of 2 figures changed by more than noise.",
    ]
    assert list(comparison(read_results([new]))["before"]) == [None, None]


def test_benchmarks_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no benchmark results in"):
        benchmarks([tmp_path / "none.csv"], NOW)
    for text in ("", "a,b\n1,2\n", HEAD + "p,f,s,x,1,1,1,,,d,m\n"):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(Invalid, match="benchmark results"):
            benchmarks([tmp_path / "bad.csv"], NOW)


# -- forms ------------------------------------------------------------------------------------------------

NAMES = ("capacity", "tenants", "unused", "operations")


@pytest.mark.parametrize("name", NAMES)
def test_page_json_and_csv_say_the_same_and_fetch_nothing(site: Site, name: str, tmp_path: Path) -> None:
    report = made(site.url, name)
    files = {file.name: file.read_text() for file in write(report, tmp_path)}
    page, data = files[f"{name}.html"], json.loads(files[f"{name}.json"])
    assert re.findall(r"""(?:src|href)=["'](?!#)|url\((?!["']?#)|@import""", page) == []
    assert ("<svg" in page) == any(section.plot for section in report.sections)
    for words in report.words:
        assert words.split(":")[0] in page
    for key, frame in report.frames().items():
        rows = list(csv.DictReader(io.StringIO(files[f"{name}-{key}.csv"])))
        assert len(rows) == len(frame) == len(data[key])


def test_an_empty_inventory_makes_reports_too(tmp_path: Path) -> None:
    url = Ledger.create(tmp_path).url
    for name in NAMES:
        assert "<title>" in report_page(made(url, name))


def test_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    Ledger.create(tmp_path)
    assert told(capsys, "report", "capacity")["outlook"][0]["says"] == "its capacity is not known"
    assert vdc("report", "tenants", "--csv", "tenants") == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("tenant,machines,vcpu")
    assert vdc("report", "unused", "--days", "3", "--out", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / "unused.html").is_file()
    capsys.readouterr()
    assert vdc("report", "operations", "--csv", "nothing") == 3
    assert "has no table 'nothing'. It has: kinds, errors." in capsys.readouterr().err
    assert vdc("report", "unused", "--days", "0") == 2
    (tmp_path / "file").write_text("")
    assert vdc("report", "operations", "--out", str(tmp_path / "file" / "below")) == 3
    assert "cannot be written" in capsys.readouterr().err
    assert vdc("report", "benchmarks", str(tmp_path / "none.csv")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_reports_are_for_those_who_work_for_the_site(site: Site, name: str) -> None:
    makers = {
        "capacity": lambda session: capacity(session, NOW),
        "tenants": lambda session: tenants(session, NOW, LIST_PRICES),
        "unused": lambda session: unused(session, NOW, Tariff()),
        "operations": lambda session: operations(session, NOW),
    }
    for role, may in ((Role.SUPERVISOR, True), (Role.TENANT_ADMINISTRATOR, False), (Role.USER, False)):
        with read_session(site.url) as session:
            bind(session, Actor("eve", role, "u-1", "t-1", "acme"))
            if may:
                assert makers[name](session).name == name
            else:
                with pytest.raises(Forbidden, match="may not see the report"):
                    makers[name](session)
