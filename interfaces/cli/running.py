"""Running a flow from the command line: configured, watched, and its outcome in our words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from interfaces.cli.engine import use_prefect

T = TypeVar("T")


def run_flow(load_flow: Callable[[], Callable[..., T]], *args: Any) -> T:
    """Run the flow that `load_flow` imports, with progress on a terminal.

    Raises Unready where no Prefect server answers, and what the flow raises.
    """
    use_prefect()
    flow = load_flow()
    from tasks import progress

    shown = _Shown()
    try:
        with progress.heard_by(shown):
            return flow(*args)
    finally:
        shown.end()


class _Shown:
    """One line on stderr that is written over: `deploying 12 of 40`."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._width = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        if not self._live:
            return
        full = round(24 * done / total) if total else 24
        text = f"{what} {'━' * full}{'╌' * (24 - full)} {done} of {total}"
        click.echo("\r" + text.ljust(self._width), err=True, nl=False)
        self._width = len(text)

    def end(self) -> None:
        if self._width:
            click.echo("\r" + " " * self._width + "\r", err=True, nl=False)
