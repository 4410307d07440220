"""Typing `vdc` commands as a person would, and showing them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import entry_points
from io import StringIO
from pathlib import Path
from typing import Any

from deployments.lab.ec2.endpoint import CREDENTIALS
from vdc.errors import OperationFailed


def say(text: str = "") -> None:
    print(text, flush=True)


def program() -> Path:
    """`vdc`, as one would type it from here."""
    vdc = Path(sys.executable).with_name("vdc")
    return vdc.relative_to(Path.cwd()) if vdc.is_relative_to(Path.cwd()) else vdc


@cache
def _entry() -> Callable[[Sequence[str]], None]:
    (script,) = entry_points(group="console_scripts", name="vdc")
    main: Callable[[Sequence[str]], None] = script.load()
    return main


def vdc(*arguments: str, quiet: bool = False) -> str:
    """Run a `vdc` command and return what it printed. Raises OperationFailed where it fails.

    In this process: each of fifty on its own would import Prefect, for three seconds of CPU.
    """
    if not quiet:
        shown = [a if len(a) < 60 else f"{a[:57]}..." for a in arguments]
        say("$ vdc " + " ".join(f"'{a}'" if " " in a else a for a in shown))
    os.environ |= CREDENTIALS
    code: object = 0
    with redirect_stdout(StringIO()) as out:
        try:
            _entry()(arguments)
        except SystemExit as end:
            code = end.code
    printed = out.getvalue()
    if not quiet and printed:
        say(printed.rstrip())
    if code:
        raise OperationFailed(f"`vdc {' '.join(arguments)}` ended with exit code {code}.", "")
    return printed


def listed(*noun: str) -> list[dict[str, Any]]:
    """What `vdc NOUN list` lists."""
    rows: list[dict[str, Any]] = json.loads(vdc(*noun, "list", "--json", quiet=True))
    return rows


def machine(name: str) -> dict[str, Any] | None:
    """The live machine of that name, if there is one."""
    return next((row for row in listed("vm") if row["name"] == name), None)


def ensure(noun: str, name: str, *verb: str) -> None:
    """Type the command unless the noun has such a one already."""
    if name not in {row["name"] for row in listed(noun)}:
        vdc(noun, *verb)
