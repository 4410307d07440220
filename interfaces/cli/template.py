"""`vdc template ...`: recipes of machines."""

from __future__ import annotations

from pathlib import Path

import click

from interfaces.cli import listings
from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.errors import Invalid


@click.group()
def group() -> None:
    """Recipes of machines."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Templates, by name."""
    with reading() as session:
        rows = listings.templates(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        ("name", "image", "vcpu", "memory_mib", "disk_mib", "vnets", "ssh_keys", "start_script"),
        empty="No template yet. Make one: vdc template create NAME --image IMAGE --memory-mib 128",
    )


@group.command()
@click.argument("name")
@click.option("--image", required=True, help="Image of its first disk.")
@click.option("--vcpu", type=int, default=1, show_default=True)
@click.option("--memory-mib", type=int, required=True)
@click.option("--disk-mib", type=int, help="Size of its first disk; none: as the image.")
@click.option("--vnet", "vnets", multiple=True, help="Network of a card (repeatable, in order).")
@click.option("--ssh-key", "key_files", multiple=True, type=click.Path(), help="A .pub file (repeatable).")
@click.option("--tenant", default="", help="Whose it is; none: the own tenant's, of the site: everyone's.")
@click.option("--start-script", "script_file", type=click.Path(), help="Shell script run at the first start.")
@click.option(
    "--context", "context_file", type=click.Path(), default="", help="File (YAML) of what else it tells."
)
def create(
    name: str,
    image: str,
    vcpu: int,
    memory_mib: int,
    disk_mib: int | None,
    vnets: tuple[str, ...],
    key_files: tuple[str, ...],
    tenant: str,
    script_file: str | None,
    context_file: str,
) -> None:
    """Make a template."""
    from tasks.context_file import read_context_file
    from vdc.catalog import create_template
    from vdc.context import read_context

    script = _read(script_file) if script_file else ""
    read_context({"start_script": script}, f"template {name}")
    context = read_context_file(context_file, f"template {name}")
    keys = [line for f in key_files for line in _read(f).splitlines() if line.strip()]
    with writing() as session:
        create_template(
            session,
            name,
            image=image,
            vcpu=vcpu,
            memory_mib=memory_mib,
            disk_mib=disk_mib,
            vnets=vnets,
            ssh_keys=keys,
            start_script=script,
            context=context,
            tenant=tenant,
            actor=actor(),
        )
    print_line(f"Template {name} is ready: vdc vm deploy --template {name}")


@group.command()
@click.argument("name")
def delete(name: str) -> None:
    """Forget a template; refused while machines that were made from it are there."""
    from vdc.catalog import delete_template

    with writing() as session:
        delete_template(session, name, actor=actor())
    print_line(f"Template {name} is gone.")


def _read(file: str) -> str:
    try:
        return Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}.") from error
