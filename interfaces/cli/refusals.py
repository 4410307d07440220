"""Into the audit with what a command was refused; the flows do so themselves (tasks/batches.py)."""

from __future__ import annotations

from collections.abc import Sequence

import click

from interfaces.cli.output import note
from vdc import inventory
from vdc.audit import Attempt, record_refusal
from vdc.errors import Refused
from vdc.identity import acting_or_none
from vdc.settings import load


def write_down(root: click.Group, arguments: Sequence[str], error: Refused) -> None:
    """Say so where that fails, and nothing more: the refusal itself is what the user must read."""
    if error.recorded:
        return
    try:
        settings = load()
        inventory.require(settings.inventory_url)
    except Refused:
        return  # there is no audit to write into
    try:
        attempt, actor = attempted(root, arguments), acting_or_none(settings)
        with inventory.write_session(settings.inventory_url) as session:
            record_refusal(session, actor, attempt, error)
    except Exception as failed:  # noqa: BLE001 - see the docstring
        note(f"The refusal could not be written into the audit: {failed}")


def attempted(root: click.Group, arguments: Sequence[str]) -> Attempt:
    """The command as it was typed, parsed once more: what it is called, and its objects."""
    context = root.make_context("vdc", list(arguments), resilient_parsing=True)
    words: list[str] = []
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, left = context.command.resolve_command(context, rest) if rest else (None, None, [])
        if name is None or command is None:
            break
        words.append(name)
        context = command.make_context(name, left, parent=context, resilient_parsing=True)
    objects: list[str] = []
    for parameter in context.command.params:
        if isinstance(parameter, click.Argument) and parameter.name:
            value = context.params.get(parameter.name) or ()
            objects += [value] if isinstance(value, str) else map(str, value)
    plan = " --plan" if context.params.get("only_plan") else ""
    return Attempt(" ".join(words) + plan, ",".join(objects))
