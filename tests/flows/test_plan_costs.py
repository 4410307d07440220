"""What every `--plan` says of costs: numbers made by hand, and what the bill charges for the next hour.

In the prices below an hour of `web` (1 vCPU, 128 MiB, a disk of 64 MiB, two public addresses, image `tiny`)
costs 10 for its vCPU, 10 for its memory, 6 for its addresses, 5 for its licence, and its disk 1 in a month of
744 hours, such as October; a plan's month has 730, and its hour of a disk costs 744/730 of that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from reports.bill import bills
from reports.usage import read_events
from tests.flows import run
from tests.flows.site import ACTOR, Site, once
from tests.requires import missing
from vdc import catalog
from vdc.billed import Billed
from vdc.claims.giving import give
from vdc.claims.hold import hold
from vdc.clock import running_on
from vdc.inventory import read_session, write_session
from vdc.months import Month
from vdc.requests import MachinesRequest
from vdc.schema import Tenant, Vm, Vnet
from vdc.settings import load
from vdc.tariff import Shares, Tariff
from vdc.tariff_file import Version
from vdc.tariffs import add_tariff, read_book

OCTOBER = Month.parse("2026-10")
PRICES = Tariff(
    vcpu_hour=Decimal(10),
    memory_gib_hour=Decimal(80),
    disk_gib_month=Decimal(744 * 16),
    snapshot_gib_month=Decimal(744 * 16 * 2),
    image_gib_month=Decimal(744 * 16 * 4),
    address_hour=Decimal(3),
    licence_hour={"tiny": Decimal(5)},
    stopped=Shares(vcpu=Decimal("0.5")),
    suspended=Shares(memory=Decimal("0.25")),
    held=Shares(vcpu=Decimal("0.1")),
)
DEAR = Tariff(vcpu_hour=Decimal(20), memory_gib_hour=Decimal(160), disk_gib_month=Decimal(744 * 32))
"""Tenant bolt's own."""

KEYS = {
    "cost_per_hour_before",
    "cost_per_month_before",
    "cost_per_hour",
    "cost_per_month",
    "cost_is",
    "cost_note",
    "currency",
}

Money = tuple[str, str]
"""What an hour costs: what is priced by the hour, and what by the month (of 744 hours)."""

NOTHING = ("0", "0")
RUNS = ("31", "1")
OFF = ("11", "1")
SUSPENDED = ("8.5", "1")
HELD = ("7", "1")


class Calendar:
    """Whole hours of October that pass when somebody says so."""

    def __init__(self) -> None:
        self.now = datetime(2026, 10, 5, tzinfo=UTC)

    def hour(self) -> None:
        self.now += timedelta(hours=1)


@pytest.fixture
def calendar() -> Iterator[Calendar]:
    made = Calendar()
    with running_on(lambda: made.now):
        yield made


@pytest.fixture
@once
def web(calendar: Calendar, site: Site) -> Site:
    """A site with these prices, machine `web` of tenant acme, a tenant bolt, and a network of acme's own."""
    with write_session(site.url) as session:
        for tenant in ("acme", "bolt"):
            catalog.create_tenant(session, tenant, actor=ACTOR)
        add_tariff(session, Version(PRICES), actor=ACTOR)
        add_tariff(session, Version(DEAR, tenant="bolt"), actor=ACTOR)
    return site.with_machine("web", tenant="acme")


def _hold(site: Site) -> None:
    with write_session(site.url) as session:
        hold(session, MachinesRequest(vms=["web"]), None, actor=ACTOR)


def _give(site: Site) -> None:
    with write_session(site.url) as session:
        give(session, "web", "bolt", "acme", actor=ACTOR)


def _power(*verbs: str) -> Callable[[Site], Any]:
    def go(site: Site) -> None:
        for verb in verbs:
            run.power(verb, "web", hard=verb == "stop")

    return go


def _kept(site: Site) -> None:
    run.attach_disk("web", size_mib=128, name="data")
    run.detach_disk("web", "data", keep=True)


def _own_vnet(site: Site) -> None:
    """`green` becomes acme's own: its addresses are no public ones."""
    with write_session(site.url) as session:
        acme = session.scalars(select(Tenant.id).where(Tenant.name == "acme")).one()
        session.scalars(select(Vnet).where(Vnet.name == "green")).one().tenant_id = acme


@dataclass(frozen=True)
class Case:
    """What is typed with `--plan --json`, what does it, and what acme pays before and after."""

    plan: str
    act: Callable[[Site], Any]
    before: Money
    after: Money
    first: tuple[Callable[[Site], Any], ...] = ()
    """What is done before, an hour after each."""
    is_: str = "exact"
    note: str = ""


SAVED = ("0", "4")
CASES = {
    "deploy": Case(
        "vm deploy --template tiny --name more --count 2 --tenant acme",
        lambda _: run.deploy(name="more", count=2, tenant="acme"),
        NOTHING,
        ("62", "2"),
    ),
    "deploy, larger": Case(
        "vm deploy --template tiny --name more --vcpu 2 --disk-mib 128 --vnet blue --tenant acme",
        lambda _: run.deploy(name="more", vcpu=2, disk_mib=128, vnets=["blue"], tenant="acme"),
        NOTHING,
        ("38", "2"),
    ),
    "deploy, stopped": Case(
        "vm deploy --template tiny --name more --start stopped --tenant acme",
        lambda _: run.deploy(name="more", start="stopped", tenant="acme"),
        NOTHING,
        OFF,
    ),
    "deploy, on hold": Case(
        "vm deploy --template tiny --name more --hold --tenant acme",
        lambda _: run.deploy(name="more", hold=True, tenant="acme"),
        NOTHING,
        NOTHING,
        note="From the release on: 32.0192 EUR an hour",
    ),
    "stop": Case("vm stop web --hard", _power("stop"), RUNS, OFF),
    "start": Case("vm start web", _power("start"), OFF, RUNS, first=(_power("stop"),)),
    "suspend": Case("vm suspend web", _power("suspend"), RUNS, SUSPENDED),
    "resume": Case("vm resume web", _power("resume"), SUSPENDED, RUNS, first=(_power("suspend"),)),
    "stop, suspended": Case("vm stop web --hard", _power("stop"), SUSPENDED, OFF, first=(_power("suspend"),)),
    "pause": Case("vm pause web", _power("pause"), RUNS, RUNS),
    "reboot": Case("vm reboot web", _power("reboot"), RUNS, RUNS),
    "hold": Case("vm hold web", _hold, OFF, HELD, first=(_power("stop"),)),
    "release": Case("vm release web", lambda _: run.release("web"), HELD, OFF, first=(_power("stop"), _hold)),
    "release, to be made": Case(
        "vm release more",
        lambda _: run.release("more"),
        NOTHING,
        RUNS,
        first=(lambda _: run.deploy(name="more", hold=True, tenant="acme"),),
    ),
    "terminate": Case("vm terminate web", lambda _: run.terminate("web"), RUNS, NOTHING),
    "migrate": Case(
        "vm migrate web",
        lambda _: run.migrate("web"),
        RUNS,
        RUNS,
        note="A tariff knows no hosts and no datastores.",
    ),
    "resize": Case(
        "vm resize web --vcpu 2 --disk-mib 128",
        lambda _: run.resize("web", vcpu=2, disk_mib=128),
        RUNS,
        ("41", "2"),
    ),
    "resize, in part later": Case(
        "vm resize web --vcpu 2 --memory-mib 512",
        lambda _: run.resize("web", vcpu=2, memory_mib=512),
        RUNS,
        ("41", "1"),
        note="From its next start on: 72.0192 an hour",
    ),
    "start, larger": Case(
        "vm start web",
        _power("start"),
        ("16", "1"),
        ("71", "1"),
        first=(lambda _: run.resize("web", vcpu=2, memory_mib=512), _power("stop")),
    ),
    "disk attach": Case(
        "vm disk attach web --size 128M --name data",
        lambda _: run.attach_disk("web", size_mib=128, name="data"),
        RUNS,
        ("31", "3"),
    ),
    "disk attach, kept": Case(
        "vm disk attach web --volume data",
        lambda _: run.attach_disk("web", volume="data"),
        ("31", "3"),
        ("31", "3"),
        first=(_kept,),
    ),
    "disk detach": Case(
        "vm disk detach web data",
        lambda _: run.detach_disk("web", "data"),
        ("31", "3"),
        RUNS,
        first=(lambda _: run.attach_disk("web", size_mib=128, name="data"),),
    ),
    "disk detach, kept": Case(
        "vm disk detach web data --keep",
        lambda _: run.detach_disk("web", "data", keep=True),
        ("31", "3"),
        ("31", "3"),
        first=(lambda _: run.attach_disk("web", size_mib=128, name="data"),),
    ),
    "disk remove": Case(
        "disk remove data --tenant acme",
        lambda _: run.remove_disk("data", tenant="acme"),
        ("0", "2"),
        NOTHING,
        first=(_kept,),
    ),
    "nic attach": Case(
        "vm nic attach web --vnet blue", lambda _: run.attach_nic("web", "blue"), RUNS, ("34", "1")
    ),
    "nic attach, no public one": Case(
        "vm nic attach web --vnet green",
        lambda _: run.attach_nic("web", "green"),
        RUNS,
        RUNS,
        first=(_own_vnet,),
    ),
    "nic detach": Case("vm nic detach web blue", lambda _: run.detach_nic("web", "blue"), RUNS, ("28", "1")),
    "snapshot": Case(
        "vm snapshot create web --label one --disk-only",
        lambda _: run.snapshot("web", "one", "disk"),
        RUNS,
        RUNS,
    ),
    "snapshot, with memory": Case(
        "vm snapshot create web --label one",
        lambda _: run.snapshot("web", "one"),
        RUNS,
        ("31", "5"),  # at most 128 MiB; the simulated memory takes half of that
        is_="at most",
        note="at most this",
    ),
    "snapshot delete": Case(
        "vm snapshot delete web one",
        lambda _: run.delete_snapshot("web", "one"),
        ("31", "3"),
        RUNS,
        first=(lambda _: run.snapshot("web", "one"),),
    ),
    "snapshot revert": Case(
        "vm snapshot revert web one",
        lambda _: run.revert("web", "one"),
        ("11", "3"),
        ("31", "3"),
        first=(lambda _: run.snapshot("web", "one"), _power("stop")),
    ),
    "save as": Case(
        "vm save-as web golden",
        lambda _: run.save_as("web", "golden"),
        NOTHING,
        SAVED,
        is_="at most",
        note="at most this",
    ),
    "image clone": Case(
        "image clone tiny copy --tenant acme",
        lambda _: run.clone_image("tiny", "copy", tenant="acme"),
        NOTHING,
        ("0", "1"),
        is_="at most",
    ),
    "image clone, the site's": Case(
        "image clone tiny copy",
        lambda _: run.clone_image("tiny", "copy"),
        NOTHING,
        NOTHING,
        note="An image of the site is not charged.",
    ),
    "image delete": Case(
        "image delete copy",
        lambda _: run.delete_image("copy"),
        ("0", "1"),
        NOTHING,
        first=(lambda _: run.clone_image("tiny", "copy", tenant="acme"),),
    ),
}


@pytest.fixture
def vdc(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def typed(*arguments: str) -> str:
        go = lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False)  # noqa: E731
        assert guarded(go, arguments) == 0
        return capsys.readouterr().out

    return typed


def _hour(cost: Money) -> Decimal:
    """As a plan says it."""
    by_hour, by_month = map(Decimal, cost)
    return (by_hour + by_month * 744 / 730).quantize(Decimal("0.0001"))


def _month(cost: Money) -> Decimal:
    by_hour, by_month = map(Decimal, cost)
    return by_hour * 730 + by_month * 744


def _billed(site: Site, tenant: str, until: datetime) -> dict[str, Decimal]:
    """What the bill has by then, by what is priced by the `hour` and by the `month`."""
    sums = {"hour": Decimal(0), "month": Decimal(0)}
    with read_session(site.url) as session:
        row = session.scalars(select(Tenant).where(Tenant.name == tenant)).one()
        billed = Billed(row.id, row.name, row.time_zone)
        events = read_events(session, [row.id], billed.window(OCTOBER))
        book = read_book(session, load().prices)
    (draft,) = bills(events, [billed], OCTOBER, book, site="s", now=until)
    for line in draft.document["lines"]:
        sums[line["per"].rpartition(" ")[2]] += Decimal(line["amount"])
    return sums


def _next_hour(site: Site, tenant: str, now: datetime) -> Money:
    was, then = _billed(site, tenant, now), _billed(site, tenant, now + timedelta(hours=1))
    return str(then["hour"] - was["hour"]), str(then["month"] - was["month"])


def _machines_pay(site: Site, now: datetime, *, apart_from: Money = NOTHING) -> Money:
    """What acme pays for the next hour, without what a plan is not about."""
    by_hour, by_month = map(Decimal, _next_hour(site, "acme", now))
    return str(by_hour - Decimal(apart_from[0])), str(by_month - Decimal(apart_from[1]))


APART = {
    # What acme pays for `web`, where the plan is of something else.
    "deploy": RUNS,
    "deploy, larger": RUNS,
    "deploy, stopped": RUNS,
    "deploy, on hold": RUNS,
    "release, to be made": RUNS,
    "disk remove": RUNS,
    "save as": RUNS,
    "image clone": RUNS,
    "image clone, the site's": RUNS,
    "image delete": RUNS,
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_plan_says_is_what_the_next_hour_costs(
    web: Site, calendar: Calendar, vdc: Callable[..., str], name: str
) -> None:
    case, apart = CASES[name], APART.get(name, NOTHING)
    calendar.hour()
    for first in case.first:
        first(web)
        calendar.hour()
    rows = web.rows()
    told = json.loads(vdc(*case.plan.split(), "--plan", "--json"))
    assert web.rows() == rows, "a plan writes nothing"
    (plan,) = told if isinstance(told, list) else [told]
    assert plan.keys() >= KEYS
    assert plan["currency"] == "EUR"
    assert plan["cost_is"] == case.is_
    assert case.note in (plan["cost_note"] or "")
    assert bool(plan["cost_note"]) is (bool(case.note) or case.is_ != "exact")
    said = [Decimal(plan[key]) for key in ("cost_per_hour_before", "cost_per_hour")]
    assert said == [_hour(case.before), _hour(case.after)]
    said = [Decimal(plan[key]) for key in ("cost_per_month_before", "cost_per_month")]
    assert said == [_month(case.before), _month(case.after)]

    now = calendar.now
    assert _hour(_machines_pay(web, now, apart_from=apart)) == _hour(case.before)
    case.act(web)
    charged = _hour(_machines_pay(web, now, apart_from=apart))
    if case.is_ == "exact":
        assert charged == _hour(case.after)
    else:
        assert _hour(case.before) < charged <= _hour(case.after)


def test_for_people_it_is_one_line(web: Site, vdc: Callable[..., str]) -> None:
    assert vdc("vm", "stop", "web", "--plan").splitlines()[-1] == (
        "Cost: 32.0192 -> 12.0192 EUR an hour, 23374.00 -> 8774.00 EUR a month (730 hours)."
    )
    assert "unchanged. A tariff knows no hosts" in vdc("vm", "migrate", "web", "--plan")
    assert "at most 36.0959 EUR an hour" in vdc("vm", "snapshot", "create", "web", "--plan")


def test_of_several_machines_each_has_its_cost_and_all_have_a_sum(web: Site, vdc: Callable[..., str]) -> None:
    web.with_machine("db", tenant="acme", vcpu=2)
    web.with_machine("shop", tenant="bolt")
    plan = json.loads(vdc("vm", "terminate", "web", "db", "shop", "--plan", "--json"))
    # Bolt pays 20 for its vCPU, 20 for its memory, and 2 for its disk, for nothing else.
    expected = {"web": _hour(RUNS), "db": _hour(("41", "1")), "shop": _hour(("40", "2"))}
    assert {row["name"]: Decimal(row["cost_per_hour_before"]) for row in plan} == expected
    assert {row["cost_per_hour"] for row in plan} == {"0.0000"}
    told = vdc("vm", "terminate", "web", "db", "shop", "--plan").splitlines()
    assert told[-1].startswith(f"Cost: {_hour(('112', '4'))} -> 0.0000 EUR an hour")


def test_given_away_it_is_paid_by_the_other_tenants_tariff(
    web: Site, calendar: Calendar, vdc: Callable[..., str]
) -> None:
    calendar.hour()
    plan = json.loads(vdc("vm", "give", "web", "bolt", "--plan", "--json"))
    costs = {row["tenant"]: (row["cost_per_hour_before"], row["cost_per_hour"]) for row in plan}
    assert costs == {"acme": ("32.0192", "0.0000"), "bolt": ("0.0000", str(_hour(("40", "2"))))}
    _give(web)
    assert _next_hour(web, "acme", calendar.now) == ("0.00", "0.00")
    assert _hour(_next_hour(web, "bolt", calendar.now)) == _hour(("40", "2"))


def test_a_drain_changes_no_cost(web: Site, vdc: Callable[..., str]) -> None:
    plan = json.loads(vdc("host", "drain", web.spec("web").host.name, "--plan", "--json"))
    (move,) = plan["moves"]
    assert move.keys() >= KEYS
    assert move["cost_per_hour_before"] == move["cost_per_hour"] == "32.0192"


def test_a_tenant_that_leaves_costs_nothing_any_more(
    web: Site, calendar: Calendar, vdc: Callable[..., str], tmp_path: Path
) -> None:
    calendar.hour()
    _kept(web)
    run.clone_image("tiny", "copy", tenant="acme")
    calendar.hour()
    where = ("--export", str(tmp_path / "acme"), "--with-machines")
    plan = json.loads(vdc("tenant", "offboard", "acme", *where, "--plan", "--json"))
    # The machine, the kept disk of 128 MiB, the image of 16.
    assert Decimal(plan["cost_per_hour_before"]) == _hour(("31", "4"))
    assert plan["cost_per_hour"] == "0.0000"
    assert _hour(_next_hour(web, "acme", calendar.now)) == _hour(("31", "4"))


def test_an_image_that_comes_as_it_is_stored_costs_what_its_file_has(
    web: Site, calendar: Calendar, vdc: Callable[..., str], tmp_path: Path
) -> None:
    if not shutil.which("qemu-img"):
        missing("qemu-img is not installed (Debian package: qemu-utils)")
    for kind in ("qcow2", "raw"):
        subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(tmp_path / kind), "8M"], check=True)
    (tmp_path / "raw").write_bytes(b"\0" * 510 + b"\x55\xaa" + b"\0" * (8 * 2**20 - 512))
    asked = ("--name", "debian", "--datastore", "shared", "--tenant", "acme", "--plan", "--json")
    plan = json.loads(vdc("image", "import", str(tmp_path / "raw"), *asked))
    assert (plan["cost_is"], plan["cost_per_month"]) == ("at most", "372.00")
    plan = json.loads(vdc("image", "import", str(tmp_path / "qcow2"), *asked))
    # A qcow2 file with nothing in it takes less than a MiB, and that counts as one.
    assert (plan["cost_is"], plan["cost_per_month"]) == ("exact", "46.50")
    plan = json.loads(vdc("image", "import", str(tmp_path / "qcow2"), *asked[:4], *asked[6:]))
    assert (plan["cost_per_month"], plan["cost_note"]) == ("0.00", "An image of the site is not charged.")


def test_what_is_not_known_is_said_instead_of_a_number(web: Site, vdc: Callable[..., str]) -> None:
    """An instance whose price was never recorded: its bill is refused too."""
    from vdc.pricing import Level, cost_of, told

    cost = cost_of(PRICES, [Level("ec2")], [])
    assert (cost.before, cost.after) == (None, None)
    assert told(cost) == "No price of its instance was recorded."


def test_where_no_tariff_covers_a_tenant_the_plan_says_so(
    web: Site, vdc: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the list prices are none: a site that has them always has a tariff."""
    from vdc import plan_costs
    from vdc.errors import Invalid

    def none(*_: object) -> Tariff:
        raise Invalid("No tariff is in force for tenant acme on 2026-10-05.")

    monkeypatch.setattr(plan_costs, "in_force", none)
    (plan,) = json.loads(vdc("vm", "stop", "web", "--plan", "--json"))
    assert (plan["cost_is"], plan["cost_per_hour"]) == ("unknown", None)
    assert plan["cost_note"] == "No tariff is in force for tenant acme on 2026-10-05."
    assert (
        vdc("vm", "stop", "web", "--plan").splitlines()[-1].startswith("Cost of web: No tariff is in force")
    )
    assert web.count(Vm) == 1
