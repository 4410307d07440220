"""Make the administrator's reports: files, and what they say with the flow run."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks.batches import read
from tasks.reporting import make_reports, tell_reports, write_reports


@flow(name="report", flow_run_name="report", **flow_options())
def report() -> list[str]:
    """Capacity, tenants, unused, operations, benchmarks: pages and tables in `$VDC_HOME/reports/<day>`.

    Returns the files.
    """
    reports = read(make_reports)
    files = write_reports(reports)
    tell_reports(reports, files)
    return files
