"""A report as a page: one file, its pictures inside, nothing fetched; readable on a phone and in print."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pandas as pd
from jinja2 import Template
from markupsafe import Markup

from reports.html import draw, template
from reports.report import Report, Section, rows

MOST_ROWS = 200
"""Of a table on a page: the files beside it have them all."""


@lru_cache(maxsize=1)
def _template() -> Template:
    return template("report.html", shown=shown, heading=lambda key: key.replace("_", " "))


def report_page(report: Report) -> str:
    """The report as HTML."""
    return _template().render(report=report, sections=[_section(report, s) for s in report.sections])


def _section(report: Report, section: Section) -> dict[str, Any]:
    plot: Markup | str = ""
    if section.plot is not None:
        plot = draw(f"{report.name}-{section.key}", (7.2, 3.4), section.plot)
    found = rows(section.frame)
    return {
        "heading": section.heading,
        "note": section.note,
        "empty": section.empty,
        "columns": list(section.frame.columns),
        "right": [c for c in section.frame if found and all(_number(row[c]) for row in found)],
        "rows": found[:MOST_ROWS],
        "more": max(0, len(found) - MOST_ROWS),
        "plot": plot,
    }


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float, Decimal)) and not isinstance(value, bool))


def shown(value: object) -> str:
    """A cell for people."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (datetime, pd.Timestamp)):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, date):
        return f"{value:%Y-%m-%d}"
    if isinstance(value, Decimal):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)
