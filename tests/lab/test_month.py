"""A month of real machines within a minute, on a clock that we set, and its bills as made by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select, update

from deployments.lab.ec2.endpoint import AMI, CREDENTIALS, PRICES
from tests.flows import run
from tests.flows.site import ACTOR
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, wait_for
from tests.prefect_fixture import free_port
from tests.unit.test_bill import table
from vdc import catalog, clouds
from vdc.billing import read_bill
from vdc.claims.giving import give
from vdc.claims.hold import hold
from vdc.clock import running_on
from vdc.cloud_prices import parse
from vdc.inventory import read_session, write_session
from vdc.requests import MachinesRequest
from vdc.schema import Host, Image, Sample, Snapshot, Tenant, UsageEvent, Vm
from vdc.states import VmState
from vdc.tariff_file import load_version
from vdc.tariffs import add_tariff

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]

MADRID = ZoneInfo("Europe/Madrid")
TENANTS = ("acme", "bolt", "cove")
TARIFF = """
currency: EUR
valid_from: {since}
vcpu_hour: {vcpu}
memory_gib_hour: 0.02
disk_gib_month: 7.45
snapshot_gib_month: 7628.80
image_gib_month: 7628.80
address_hour: 0.01
traffic_gib: 1
licence_hour: {{tiny: 0.01}}
ec2_margin: 1
"""


class Calendar:
    """What day it is: it stays until it is set."""

    def __init__(self) -> None:
        self.now = datetime(2026, 9, 1, tzinfo=UTC)

    def at(self, month: int, day: int, hour: int = 0, minute: int = 0) -> None:
        """In Madrid."""
        now = datetime(2026, month, day, hour, minute, tzinfo=MADRID).astimezone(UTC)
        assert now >= self.now, "time goes forward"
        self.now = now


@pytest.fixture
def calendar() -> Iterator[Calendar]:
    made = Calendar()
    with running_on(lambda: made.now):
        yield made


@contextmanager
def _away(datacenter: Datacenter, but_for: str) -> Iterator[None]:
    """Hosts other than that of machine `but_for` do not answer: nothing listens where they are called."""
    with write_session(datacenter.url) as session:
        spec = session.scalars(select(Vm.spec).where(Vm.name == but_for)).one()
        uris = dict(
            session.execute(select(Host.name, Host.uri).where(Host.name != spec["host"]["name"])).all()
        )
        for name in uris:
            uri = f"qemu+ssh://root@127.0.0.1:{free_port()}/system"
            session.execute(update(Host).where(Host.name == name).values(uri=uri))
    try:
        yield
    finally:
        with write_session(datacenter.url) as session:
            for name, uri in uris.items():
                session.execute(update(Host).where(Host.name == name).values(uri=uri))


@contextmanager
def _hosts_take_nothing(datacenter: Datacenter) -> Iterator[None]:
    def be(state: str) -> None:
        with write_session(datacenter.url) as session:
            session.execute(update(Host).values(state=state))

    be("disabled")
    try:
        yield
    finally:
        be("enabled")


def _with_cloud(datacenter: Datacenter, tenant: str) -> None:
    """The lab's EC2 endpoint, for one tenant."""
    prices = parse(PRICES.read_text(), "lab", today=date(2026, 11, 1))
    with write_session(datacenter.url) as session:
        clouds.add_cloud(session, "aws", datacenter.lab.lab.ec2_uri, prices, currency="EUR", actor=ACTOR)
        clouds.map_image(session, "tiny", "aws", AMI, actor=ACTOR)
        session.execute(update(Tenant).where(Tenant.name == tenant).values(burst_allowed=True))


def _domain_lost(datacenter: Datacenter, name: str) -> None:
    with read_session(datacenter.url) as session:
        vm = session.scalars(select(Vm).where(Vm.name == name)).one()
        host, domain = vm.spec["host"]["name"], f"vm-{vm.id}"
    datacenter.on_host(host, "virsh", "destroy", domain)
    datacenter.on_host(host, "virsh", "undefine", domain)


def _sent_bytes(datacenter: Datacenter) -> int:
    """Of the last sample; a meter that finds nothing makes room for the next."""
    with write_session(datacenter.url) as session:
        sample = session.scalars(select(Sample)).one()
        if not sample.net_tx_bytes:
            session.delete(sample)
        return sample.net_tx_bytes


def test_a_month_is_billed_as_by_hand(
    calendar: Calendar, clean: Datacenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = clean.url
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with write_session(url) as session:
        for tenant in TENANTS:
            catalog.create_tenant(session, tenant, time_zone="Europe/Madrid", actor=ACTOR)
        net = {"uri": "vlan://ovsbr0", "needs_vlan": True, "vlan_id": 302, "cidr": "10.5.0.0/24"}
        catalog.create_vnet(session, "outer", **net, actor=ACTOR)  # type: ignore[arg-type]
        for since, vcpu in (("2026-09-01", "0.01"), ("2026-10-15", "0.02")):
            file = tmp_path / f"{since}.yaml"
            file.write_text(TARIFF.format(since=since, vcpu=vcpu))
            add_tariff(session, load_version(file), actor=ACTOR)

    calendar.at(10, 1, 10)
    run.deploy(name="web", tenant="acme", start="paused", memory_mib=512, disk_mib=1024)
    calendar.at(10, 2)
    run.deploy(name="db", tenant="acme", start="paused", memory_mib=512, disk_mib=1024)
    calendar.at(10, 3, 10)
    run.power("stop", "web", hard=True)
    calendar.at(10, 4)
    assert run.reconcile() == []
    calendar.at(10, 5)
    _domain_lost(clean, "db")
    calendar.at(10, 5, 12)
    with _away(clean, but_for="db"):
        run.reconcile()
    with read_session(url) as session:
        assert session.scalars(select(Vm.state).where(Vm.name == "db")).one() == VmState.MISSING
    assert [finding.object for finding in run.reconcile()] == ["vm/db"]
    calendar.at(10, 6)
    run.terminate("db")
    run.power("start", "web")
    calendar.at(10, 7)
    wait_for(lambda: run.meter().samples and _sent_bytes(clean), "web sends something", BOOT_TIMEOUT_S)
    run.power("suspend", "web")
    calendar.at(10, 7, 1, 6)
    run.meter()
    calendar.at(10, 8)
    run.power("resume", "web")
    run.snapshot("web", "thursday")
    with read_session(url) as session:
        snapshot_mib = session.scalars(select(Snapshot.size_mib)).one()
    assert snapshot_mib > 0, "it has the memory of a guest"
    calendar.at(10, 9)
    run.power("stop", "web", hard=True)
    run.delete_snapshot("web", "thursday")
    calendar.at(10, 9, 6)
    run.resize("web", vcpu=2, memory_mib=1024, disk_mib=2048)
    calendar.at(10, 9, 8)
    with write_session(url) as session:
        hold(session, MachinesRequest(vms=["web"]), None, actor=ACTOR)
    calendar.at(10, 9, 20)
    run.release("web")
    calendar.at(10, 9, 21)
    run.save_as("web", "golden")
    with read_session(url) as session:
        image_mib = session.scalars(select(Image.size_mib).where(Image.name == "golden")).one()
    calendar.at(10, 10)
    run.power("start", "web")
    # It has nothing more to do; to a bill that is the same.
    run.power("pause", "web")
    calendar.at(10, 11)
    run.deploy(name="hub", tenant="cove", start="stopped", memory_mib=512, disk_mib=1024)
    calendar.at(10, 11, 21)
    run.delete_image("golden")
    calendar.at(10, 12)
    run.attach_disk("hub", size_mib=1024, name="data")
    calendar.at(10, 13)
    run.attach_nic("hub", "outer")
    calendar.at(10, 14)
    run.detach_nic("hub", "outer")
    run.detach_disk("hub", "data", keep=True)
    calendar.at(10, 15)
    run.attach_disk("hub", volume="data")
    calendar.at(10, 16)
    run.detach_disk("hub", "data", keep=True)
    run.terminate("hub")
    calendar.at(10, 17)
    run.remove_disk("data", "cove")
    calendar.at(10, 18)
    _with_cloud(clean, "cove")
    with _hosts_take_nothing(clean):
        run.deploy(name="peak", tenant="cove", burst="when-full")
    calendar.at(10, 20)
    run.terminate("peak")
    with write_session(url) as session:
        give(session, "web", "bolt", actor=ACTOR)
    calendar.at(10, 27)
    run.terminate("web", tenant="bolt")
    clean.assert_agrees()

    calendar.at(11, 2)
    issued = {bill.tenant: bill.number for bill in run.bill("2026-10")}
    with read_session(url) as session:
        kinds = set(session.scalars(select(UsageEvent.kind)))
        bills = {tenant: json.loads(read_bill(session, issued[tenant])[0].document) for tenant in TENANTS}
    assert kinds == {
        *("created", "started", "stopped", "suspended", "resumed", "held", "released", "lost", "terminated"),
        *("disk-attached", "disk-detached", "attached", "address-leased", "address-released"),
        *("resized", "owner-changed", "snapshot-taken", "snapshot-removed", "stored", "removed", "traffic"),
    }
    mib = {"S": snapshot_mib, "I": image_mib}
    by_hand = [
        [*of, hours, _gib(quantity, mib), _amount(euros, mib)]
        for *of, hours, quantity, _, euros in table("| tenant | machine | what | hours")
    ]
    seen = [
        [tenant, line["machine"], line["what"], *_of_line(line)]
        for tenant, document in bills.items()
        for line in document["lines"]
    ]
    assert sorted(seen) == sorted(by_hand)
    totals = {tenant: Decimal(document["total"]) for tenant, document in bills.items()}
    assert totals == {
        tenant: sum(Decimal(row[-1]) for row in by_hand if row[0] == tenant) for tenant in bills
    }


def _gib(quantity: str, mib: dict[str, int]) -> str:
    """`S` and `I` of the table are MiB, as the platform saw them; a bill says GiB."""
    return _number(Decimal(mib[quantity]) / 1024) if quantity in mib else quantity


def _amount(euros: str, mib: dict[str, int]) -> str:
    price, _, of = euros.partition(" ")
    return str(Decimal(price) * mib[of]) if of else euros


def _of_line(line: dict[str, Any]) -> list[str]:
    if line["what"] == "traffic":
        assert Decimal(line["quantity"]) > 0
        return ["", "", line["amount"]]
    return [_number(Decimal(line["hours"])), _number(Decimal(line["quantity"])), line["amount"]]


def _number(value: Decimal) -> str:
    return f"{round(value, 6).normalize():f}"
