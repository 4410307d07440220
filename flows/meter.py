"""Sample what machines do, and forget samples that are old."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import read, recorded
from tasks.environment import environment
from tasks.metering import sample
from vdc.access import actor, check
from vdc.metering import Metered, read_hosts, record_samples, record_traffic, sweep_samples


@flow(name="meter", flow_run_name="meter", **flow_options())
def meter() -> Metered:
    """Read CPU time, disk and network counters of every running machine; unreachable hosts are named.

    What machines sent in hours that are over is written down for their bills.
    """
    read(check, "site.meter")
    hosts = read(read_hosts)
    metered = recorded(record_samples, sample(hosts))
    recorded(record_traffic, actor=actor())
    telling.meter_result(metered)
    return metered


@flow(name="sweep", flow_run_name="sweep", **flow_options())
def sweep() -> int:
    """Remove samples older than the setting sample_retention_days; returns how many."""
    read(check, "site.sweep")
    days = environment().settings.sample_retention_days
    removed = recorded(sweep_samples, days)
    telling.sweep_result(removed, days)
    return removed
