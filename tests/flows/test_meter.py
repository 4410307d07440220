"""Sampling what machines do, and forgetting it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from tests.flows import run
from tests.flows.site import Site, settings
from vdc.inventory import read_session, write_session
from vdc.schema import Sample, Vm, utc_now

pytestmark = pytest.mark.prefect


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


def test_what_runs_is_sampled_and_a_host_that_does_not_answer_is_named(site: Site) -> None:
    run.deploy(name="web", count=2)
    run.deploy(name="off", start="stopped")
    site.sim.add_foreign_domain("h1", "pfsense")
    site.sim.set_counters(site.spec("web-1").domain, "h1", 12.5, 1, 2**40, 3, 4)
    before = {name: rows for name, rows in site.rows().items() if name != "samples"}
    metered = run.meter()
    assert (metered.samples, metered.skipped) == (2, {})
    assert samples(site) == [("web-1", 12.5, 1, 2**40, 3, 4), ("web-2", 0.0, 0, 0, 0, 0)]

    site.sim.host_down("h2")
    metered = run.meter()
    assert (metered.samples, list(metered.skipped)) == (1, ["h2"])
    assert len(samples(site)) == 3
    assert {name: rows for name, rows in site.rows().items() if name != "samples"} == before


def test_old_samples_are_removed(site: Site) -> None:
    run.deploy(name="web")
    run.meter()
    with write_session(site.url) as session:
        session.execute(update(Sample).values(at=utc_now() - timedelta(days=8)))
    run.meter()
    assert run.sweep() == 0
    with settings(sample_retention_days=7):
        assert run.sweep() == 1
    assert len(samples(site)) == 1
