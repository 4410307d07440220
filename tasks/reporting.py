"""Reports as tasks: made of one view of the inventory, written where the operator finds them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.orm import Session

from reports import report_files
from reports.benchmarks import benchmarks
from reports.capacity import capacity
from reports.operations import operations
from reports.report import Report, rows
from reports.tenants import tenants
from reports.unused import unused
from tasks.artifacts import bullets, publish, table
from tasks.billing import tariff_of
from tasks.environment import environment
from vdc.errors import NotFound
from vdc.schema import utc_now
from vdc.settings import CHECKOUT

log = logging.getLogger(__name__)

RESULTS = CHECKOUT / "build" / "bench" / "results.csv"


def make_reports(session: Session) -> list[Report]:
    """All of them, as of now; that of benchmarks where some were measured."""
    now = utc_now()
    made = [
        capacity(session, now),
        tenants(session, now, tariff_of("")),
        unused(session, now, environment().settings.prices),
        operations(session, now),
    ]
    try:
        made.append(benchmarks([RESULTS], now))
    except NotFound as error:
        log.info("No report of benchmarks: %s", error)
    return made


@task(name="write-reports", task_run_name="write reports", cache_policy=NO_CACHE, persist_result=False)
def write_reports(reports: list[Report]) -> list[str]:
    """Write all of them for the day on which they were made; what is there of that day is written over."""
    directory = environment().settings.home / "reports" / f"{reports[0].at:%Y-%m-%d}"
    return [str(file) for report in reports for file in report_files.write(report, directory)]


def tell_reports(reports: Sequence[Report], files: Sequence[str]) -> None:
    """One artifact a report, with its sentences and tables; the pages are in the files."""
    for report in reports:
        parts = [bullets(report.words)]
        for section in report.sections:
            shown = [{key: _cell_of(value) for key, value in row.items()} for row in rows(section.frame)]
            parts += [
                f"### {section.heading}",
                table(shown, more="its CSV file") or section.empty,
                section.note,
            ]
        pages = [file for file in files if file.endswith(f"{report.name}.html")]
        publish(f"report-{report.name}", " ".join(report.words[:2]), *parts, bullets(pages))


def _cell_of(value: object) -> object:
    return f"{value:%Y-%m-%d %H:%M}" if isinstance(value, datetime) else value
