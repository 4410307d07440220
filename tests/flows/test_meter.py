"""Sampling what machines do, and forgetting it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select, update

from tests.flows import run
from tests.flows.site import ACTOR, Site, settings
from vdc.inventory import read_session, write_session
from vdc.metering import record_traffic, sweep_samples
from vdc.months import Month
from vdc.schema import Sample, UsageEvent, Vm, utc_now
from vdc.tariff import Tariff
from vdc.tariff_book import TariffBook


def samples(site: Site) -> list[tuple[str, float, int, int, int, int]]:
    with read_session(site.url) as session:
        query = select(
            Vm.name,
            Sample.cpu_s,
            Sample.disk_read_bytes,
            Sample.disk_write_bytes,
            Sample.net_rx_bytes,
            Sample.net_tx_bytes,
        )
        return [tuple(row) for row in session.execute(query.join(Vm).order_by(Vm.name, Sample.at))]


@pytest.mark.prefect
def test_what_runs_is_sampled_and_a_host_that_does_not_answer_is_named(site: Site) -> None:
    run.deploy(name="web", count=2)
    run.deploy(name="off", start="stopped")
    site.sim.add_foreign_domain("h1", "pfsense")
    site.sim.set_counters(site.spec("web-1").domain, "h1", 12.5, 1, 2**40, 3, 4)
    before = {name: rows for name, rows in site.rows().items() if name not in ("samples", "site")}
    metered = run.meter()
    assert (metered.samples, metered.skipped) == (2, {})
    assert samples(site) == [("web-1", 12.5, 1, 2**40, 3, 4), ("web-2", 0.0, 0, 0, 0, 0)]

    site.sim.host_down("h2")
    metered = run.meter()
    assert (metered.samples, list(metered.skipped)) == (1, ["h2"])
    assert len(samples(site)) == 3
    assert {name: rows for name, rows in site.rows().items() if name not in ("samples", "site")} == before


def test_old_samples_are_removed(site: Site) -> None:
    run.deploy(name="web")
    run.meter()
    with write_session(site.url) as session:
        session.execute(update(Sample).values(at=utc_now() - timedelta(days=8)))
    with settings(sample_retention_days=7):
        assert run.sweep() == 0, "what it sends is counted from its last one"
    run.meter()
    assert run.sweep() == 0
    with settings(sample_retention_days=7):
        assert run.sweep() == 1
    assert len(samples(site)) == 1


NOON = datetime(2026, 10, 1, 12, tzinfo=UTC)


def _sent(site: Site, name: str, *told: tuple[float, int]) -> None:
    """Samples of a machine: minutes after noon, and its counter of what it sent."""
    with write_session(site.url) as session:
        vm_id = session.scalars(select(Vm.id).where(Vm.name == name)).one()
        for minutes, count in told:
            counters = {"cpu_s": 0.0, "disk_read_bytes": 0, "disk_write_bytes": 0, "net_rx_bytes": 0}
            at = NOON + timedelta(minutes=minutes)
            session.add(Sample(vm_id=vm_id, at=at, net_tx_bytes=count, **counters))


def _counted(site: Site, minutes: float) -> list[tuple[str, float, int]]:
    """Counts at that time; all traffic that is written down: machine, minutes after noon, bytes."""
    with write_session(site.url) as session:
        record_traffic(session, actor=ACTOR, now=NOON + timedelta(minutes=minutes))
    with read_session(site.url) as session:
        query = select(Vm.name, UsageEvent.at, UsageEvent.bytes).join(Vm, Vm.id == UsageEvent.vm_id)
        rows = session.execute(query.where(UsageEvent.kind == "traffic").order_by(UsageEvent.at, Vm.name))
        return [(name, (at - NOON).total_seconds() / 60, sent) for name, at, sent in rows]


def test_what_was_sent_is_written_down_once_an_hour(site: Site) -> None:
    site.with_machine("web").with_machine("db")
    _sent(site, "web", (2, 100), (7, 350), (57, 1350))
    _sent(site, "db", (2, 0), (57, 0))
    assert _counted(site, 58) == []
    assert _counted(site, 64.9) == [], "a host may answer late"
    first = [("web", 57, 1350)]
    assert _counted(site, 66) == first
    assert _counted(site, 71) == first, "once"
    # Started anew after 200 more bytes, of which nobody knows; then migrated.
    _sent(site, "web", (62, 1500), (67, 40), (72, 90), (77, 5))
    _sent(site, "db", (62, 8))
    assert _counted(site, 126) == [*first, ("db", 62, 8), ("web", 77, 150 + 40 + 50 + 5)]
    # Two hours without a control plane are one event, and what went before is not counted again.
    _sent(site, "db", (130, 9), (179, 20))
    assert _counted(site, 250)[3:] == [("db", 179, 12)]


def test_what_is_counted_from_is_not_swept_away(site: Site) -> None:
    site.with_machine("web")
    _sent(site, "web", (2, 100), (57, 1000))
    assert _counted(site, 66) == [("web", 57, 1000)]
    later = 60 * 24 * 10
    with write_session(site.url) as session:
        assert sweep_samples(session, 7, NOON + timedelta(minutes=later)) == 1
    _sent(site, "web", (later + 2, 1200))
    assert _counted(site, later + 66)[1:] == [("web", later + 2, 200)]


def test_traffic_is_paid_by_who_had_the_machine(site: Site) -> None:
    from reports.bill import bills
    from reports.usage import read_events
    from vdc import catalog
    from vdc.billing import read_tenants
    from vdc.claims.giving import give

    month = Month(2026, 10)
    site.with_machine("web")
    with write_session(site.url) as session:
        catalog.create_tenant(session, "bolt", actor=ACTOR)
        session.execute(update(UsageEvent).values(at=NOON))
    _sent(site, "web", (2, 2**30))
    _counted(site, 66)
    with write_session(site.url) as session:
        give(session, "web", "bolt", actor=ACTOR)
        given = NOON + timedelta(minutes=30)
        session.execute(update(UsageEvent).where(UsageEvent.kind == "owner-changed").values(at=given))
    _sent(site, "web", (62, 3 * 2**30))
    _counted(site, 126)
    with read_session(site.url) as session:
        tenants = read_tenants(session)
        events = read_events(session, [tenant.tenant_id for tenant in tenants], month.window("UTC"))
    book = TariffBook.always(Tariff(traffic_gib=Decimal(1), address_hour=Decimal("0.5")))
    paid = {
        (draft.document["tenant"], line["what"]): line["amount"]
        for draft in bills(events, tenants, month, book, site="site")
        for line in draft.document["lines"]
    }
    assert paid["default", "traffic"] == "1.00"
    assert paid["bolt", "traffic"] == "2.00"
    # Its two networks are the site's.
    assert paid["default", "public address"] == "0.50"
