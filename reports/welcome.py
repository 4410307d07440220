"""A welcome sheet: what a customer needs to know to begin, as a page and as plain text."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Template

from reports.html import template


@lru_cache(maxsize=1)
def _page() -> Template:
    return template("welcome.html", size=size, role=role)


@lru_cache(maxsize=1)
def _text() -> Template:
    return template("welcome.txt", size=size, role=role)


def page(facts: dict[str, Any]) -> str:
    """The sheet as one HTML file that fetches nothing. `facts`: as of vdc.welcome.read_welcome."""
    return _page().render(facts)


def text(facts: dict[str, Any]) -> str:
    """The same in plain text, at most 79 columns where names are not longer."""
    return _text().render(facts).rstrip() + "\n"


def size(mib: int) -> str:
    """`96 MiB`, `2 GiB`, `1.5 GiB`."""
    return f"{mib} MiB" if mib < 1024 else f"{mib / 1024:.4g} GiB"


def role(name: str) -> str:
    """What an account may do, for its owner."""
    return {
        "tenant-administrator": "administers all that is yours",
        "user": "makes machines, and manages the own ones",
    }.get(name, name)
