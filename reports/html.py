"""What the pages share: each is one file, its pictures inside, nothing fetched; for a phone and for print."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def template(name: str, **filters: Callable[..., object]) -> Template:
    """A file of `reports/templates`, with filters of its own; in pages what comes in is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)


def draw(name: str, size: tuple[float, float], plot: Callable[[Figure], object]) -> Markup:
    """A picture as an SVG element that names no place to fetch from; `size` is in inches at 12 pt text.

    Pictures of one page have different names: their inner references must not meet.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 12}
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        plot(figure)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing, transparent=True)
    svg = drawn.getvalue()
    svg = svg[svg.index("<svg") :]
    # Within HTML the names of XML are not needed, and the numbered ids of groups would be there twice.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r' id="(?!C\d)[\w.]+_\d+"', "", svg)
    return Markup(svg)  # noqa: S704 - made by matplotlib, above


def plain(axes: Axes) -> None:
    """Light lines where values are read off, no box around them."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
