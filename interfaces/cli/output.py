"""What the commands print: tables for people, JSON for programs.

Only here is anything written to stdout. Tables are plain aligned text: a listing of thousands of rows must
answer at once, and what is piped must not be cut.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import click

Columns = Sequence[str | tuple[str, str]]
"""Keys of the rows in order, each alone or with the heading to print above it."""

_GOOD = {"running", "up", "done", "ok", "ready"}
_BAD = {"failed", "crashed", "down", "unreachable", "error"}


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--json`, given to the command as `as_json`. Errors become JSON too: see errors.py."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, with stable keys.")(command)


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_table(rows: Sequence[Mapping[str, Any]], columns: Columns, *, empty: str = "") -> None:
    """Rows under headings; numbers to the right. Prints `empty` (to stderr) where there are no rows.

    On a terminal the widest column is cut to make a line fit; elsewhere nothing is ever cut.
    """
    if not rows:
        note(empty)
        return
    named = [(c, c.replace("_", " ").upper()) if isinstance(c, str) else c for c in columns]
    cells = [[heading for _, heading in named]]
    cells += [[_text(row.get(key)) for key, _ in named] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    terminal = sys.stdout.isatty()
    if terminal:
        _fit(widths, shutil.get_terminal_size().columns)
    right = [
        all(isinstance(row.get(key), (int, float, Decimal, type(None))) for row in rows) for key, _ in named
    ]
    lines = []
    for number, line in enumerate(cells):
        parts = []
        for text, width, to_right in zip(line, widths, right, strict=True):
            shown = text if len(text) <= width else text[: width - 1] + "…"
            padded = shown.rjust(width) if to_right else shown.ljust(width)
            parts.append(_styled(padded, number) if terminal else padded)
        lines.append("  ".join(parts).rstrip())
    click.echo("\n".join(lines))


def print_fields(values: Mapping[str, Any]) -> None:
    """One object, a line a field."""
    width = max(map(len, values))
    for key, value in values.items():
        click.echo(f"{key.replace('_', ' '):{width}}  {_text(value)}")


def print_line(text: str = "") -> None:
    click.echo(text)


def note(text: str) -> None:
    """Say what is going on, where it does not mix with what a program reads."""
    if text:
        click.echo(text, err=True)


def human_mib(mib: float) -> str:
    """1536 -> `1.5 GiB`."""
    size = float(mib)
    for unit in ("MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.1f}".removesuffix(".0") + f" {unit}"
        size /= 1024
    raise AssertionError


def bar(used: float, total: float, width: int = 10) -> str:
    """`███·······  30%`: how much of `total` is in use; of nothing, nothing."""
    share = min(max(used / total, 0.0), 1.0) if total else 0.0
    full = round(share * width)
    return "█" * full + "·" * (width - full) + f" {share:4.0%}"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, date):  # datetime is one
        return value.isoformat()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if isinstance(value, (Path, Decimal)):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%SZ}"
    if isinstance(value, dict):
        return ",".join(f"{key}={_text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value)) or "-"
    text = str(_plain(value) if isinstance(value, Enum) else value)
    # One row, one line, whatever a guest or a host calls itself.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _fit(widths: list[int], total: int) -> None:
    excess = sum(widths) + 2 * (len(widths) - 1) - total
    if excess > 0:
        widest = widths.index(max(widths))
        widths[widest] = max(widths[widest] - excess, 8)


def _styled(padded: str, number: int) -> str:
    if number == 0:
        return click.style(padded, bold=True)
    word = padded.strip().lower()
    if word in _GOOD:
        return click.style(padded, fg="green")
    if word in _BAD:
        return click.style(padded, fg="red")
    return padded
