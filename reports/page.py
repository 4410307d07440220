"""A bill as a page: one HTML file, its picture inside, nothing fetched; readable on a phone and in print."""

from __future__ import annotations

import io
from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from vdc.tariff import ITEMS

Document = dict[str, Any]

COLOURS = dict(zip((i.what for i in ITEMS), ("#1f5fa8", "#4fa3a5", "#c98a1b", "#9b4f96"), strict=True))


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["instant"] = _instant
    environment.filters["money"] = lambda text: f"{Decimal(text):,.2f}"
    environment.filters["hours"] = lambda text: f"{Decimal(text):,.2f}"
    environment.filters["quantity"] = lambda text: (
        f"{Decimal(text).quantize(Decimal('0.0001')).normalize():f}"
    )
    return environment.get_template("bill.html")


def _instant(text: str) -> str:
    """`2026-10-25 03:00:00 +0100`: the offset matters on the day on which the clocks change."""
    return f"{datetime.fromisoformat(text):%d %b %H:%M:%S %z}"


def page(document: Document) -> str:
    """The bill as HTML."""
    machines: dict[tuple[str, str], list[dict[str, str]]] = {}
    for line in document["lines"]:
        machines.setdefault((line["machine"], line["vm_id"]), []).append(line)
    groups = [
        {"name": name, "vm_id": vm_id, "lines": lines, "total": sum(Decimal(x["amount"]) for x in lines)}
        for (name, vm_id), lines in machines.items()
    ]
    by_what = {
        what: sum((Decimal(x["amount"]) for x in document["lines"] if x["what"] == what), Decimal(0))
        for what in COLOURS
    }
    return _template().render(
        bill=document,
        machines=groups,
        by_what={what: total for what, total in by_what.items() if total},
        colours=COLOURS,
        plot=Markup(plot(document)) if document["lines"] else "",  # noqa: S704 - made by matplotlib, below
    )


def per_day(document: Document) -> dict[str, list[float]]:
    """Cost of each day of the month by what is charged: for the picture, so in binary fractions."""
    zone = ZoneInfo(document["time_zone"])
    begin, end = (datetime.fromisoformat(document[key]).astimezone(zone) for key in ("from", "to"))
    days = [begin]
    while (day := days[-1] + timedelta(days=1)) < end:  # the same wall-clock time: midnight
        days.append(day)
    edges = [day.timestamp() for day in days] + [end.timestamp()]
    cost = {what: [0.0] * len(days) for what in COLOURS}
    for line in document["lines"]:
        start, stop = (datetime.fromisoformat(line[key]).timestamp() for key in ("from", "to"))
        for n in range(len(days)):
            share = min(stop, edges[n + 1]) - max(start, edges[n])
            if share > 0:
                cost[line["what"]][n] += float(line["amount"]) * share / (stop - start)
    return cost


def plot(document: Document) -> str:
    """Cost of each day as an SVG element, without anything that names a place to fetch from."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    cost = per_day(document)
    days = range(1, len(next(iter(cost.values()))) + 1)
    style = {"svg.fonttype": "none", "svg.hashsalt": "vdc", "font.family": "sans-serif", "font.size": 12}
    with rc_context(style):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        axes = figure.subplots()
        below = [0.0] * len(days)
        for what, values in cost.items():
            if any(values):
                axes.bar(days, values, bottom=below, color=COLOURS[what], width=0.8, label=what)
                below = [a + b for a, b in zip(below, values, strict=True)]
        axes.set_xlim(0.4, len(days) + 0.6)
        axes.set_xticks([d for d in days if d == 1 or d % 5 == 0])
        axes.set_xlabel(f"day of {document['month']}")
        axes.set_ylabel(f"{document['currency']} a day")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing, transparent=True)
    svg = drawn.getvalue()
    return svg[svg.index("<svg") :]
