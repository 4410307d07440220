"""A bill as a page: one HTML file, its picture inside, nothing fetched; readable on a phone and in print."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from jinja2 import Template
from markupsafe import Markup

from reports.html import draw, plain, template
from reports.printed import by_machine, by_what, how, with_sides
from vdc.documents import Document, label
from vdc.tariff import WHATS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PALETTE = "#1f5fa8 #4fa3a5 #c98a1b #9b4f96 #7a8f3c #b5533c #6b6ea8 #3c8f6b #8f7a6b #555555 #bbbbbb"
COLOURS = dict(zip(WHATS, _PALETTE.split(), strict=True))


@lru_cache(maxsize=1)
def _template() -> Template:
    return template(
        "bill.html",
        instant=_instant,
        money=lambda text: f"{Decimal(text):,.2f}",
        hours=lambda text: f"{Decimal(text):,.2f}",
        quantity=lambda text: f"{Decimal(text).quantize(Decimal('0.0001')).normalize():f}",
    )


def _instant(text: str) -> str:
    """`2026-10-25 03:00:00 +0100`: the offset matters on the day on which the clocks change."""
    return f"{datetime.fromisoformat(text):%d %b %H:%M:%S %z}"


def page(document: Document) -> str:
    """The bill, preview or credit note as HTML."""
    return _template().render(
        bill=with_sides(document),
        how=how(document),
        title=label(document),
        machines=by_machine(document),
        by_what=by_what(document),
        colours=COLOURS,
        plot=plot(document) if document["lines"] and document["kind"] != "credit note" else "",
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


def plot(document: Document) -> Markup:
    """Cost of each day as an SVG element."""
    return draw("bill", (7.2, 2.8), partial(_plot_days, document))


def _plot_days(document: Document, figure: Figure) -> None:
    cost = per_day(document)
    days = range(1, len(next(iter(cost.values()))) + 1)
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
    plain(axes)
