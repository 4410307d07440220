"""`vdc context ...`: what machines are told about themselves."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, print_json, print_line
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.errors import Invalid


@click.group()
def group() -> None:
    """What machines are told: users, keys, packages, files, start script (docs/context.md)."""


@group.command("set")
@click.argument("file", type=click.Path())
@click.option("--site", "of_site", is_flag=True, help="Every machine is told it.")
@click.option("--tenant", default="", help="This tenant's machines are told it.")
@click.option("--template", default="", help="Machines of this template are told it.")
@json_option
def set_(file: str, of_site: bool, tenant: str, template: str, as_json: bool) -> None:
    """Let new machines be told what FILE (YAML) says, instead of what was there."""
    from tasks.context_file import read_context_file
    from vdc.context_levels import set_context

    what = _one_of({"the site": of_site, f"tenant {tenant}": tenant, f"template {template}": template})
    content = read_context_file(file, what)
    with writing() as session:
        changed = set_context(session, content, tenant=tenant, template=template, actor=actor())
    if as_json:
        print_json({"changed": changed})
        return
    said = f"changed: {', '.join(changed)}" if changed else "nothing changed"
    print_line(f"The context of {what}: {said}.")


@group.command()
@click.option("--site", "of_site", is_flag=True)
@click.option("--tenant", default="")
@click.option("--template", default="")
@click.option("--vm", default="", help="What this machine was told.")
@json_option
def show(of_site: bool, tenant: str, template: str, vm: str, as_json: bool) -> None:
    """What is written there; of a machine what it was told, without secrets."""
    import yaml

    from vdc.context_levels import read_level, read_told

    if not vm:
        _one_of({"the site": of_site, f"tenant {tenant}": tenant, f"template {template}": template})
    elif of_site or template:
        raise Invalid("A machine is named by --vm, and --tenant where its name is not unique.")
    with reading() as session:
        content: dict[str, Any] = (
            read_told(session, vm, tenant) if vm else read_level(session, tenant=tenant, template=template)
        )
    if as_json:
        print_json(content)
        return
    print_line(yaml.safe_dump(_plain(content), sort_keys=False, allow_unicode=True).rstrip())


def _plain(value: Any) -> Any:
    """Lists for tuples, which YAML has none of."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def _one_of(levels: dict[str, Any]) -> str:
    chosen = [what for what, given in levels.items() if given]
    if len(chosen) != 1:
        raise Invalid("Say whose context: --site, --tenant NAME or --template NAME, one of them.")
    return chosen[0]
