"""A report in files: the page, its tables as CSV, all of it as JSON."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from reports.report import Report
from reports.report_page import report_page
from vdc.errors import Invalid


def write(report: Report, directory: Path) -> list[Path]:
    """`capacity.html`, `capacity.json`, and `capacity-hosts.csv` for each table. Raises Invalid."""
    forms = {f"{report.name}.html": report_page(report), f"{report.name}.json": to_json(report)}
    forms |= {f"{report.name}-{key}.csv": frame.to_csv(index=False) for key, frame in report.frames().items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in forms.items():
            (directory / name).write_text(text)
    except OSError as error:
        raise Invalid(f"The report cannot be written to {directory}: {error}.") from error
    return [directory / name for name in forms]


def to_json(report: Report) -> str:
    return json.dumps(report.data(), indent=2, ensure_ascii=False, default=_plain) + "\n"


def _plain(value: Any) -> str:
    if isinstance(value, date):  # an instant is one
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
