"""`vdc secret ...`: what contexts name, and nobody is shown."""

from __future__ import annotations

import sys

import click

from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """What contexts name, `{{ secret('db') }}`, and nobody is shown (docs/context.md)."""


@group.command("list")
@click.option("--tenant", default="", help="Whose; none: the own tenant's, of the site: the site's.")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Names of secrets."""
    from vdc.secrets import listing

    with reading() as session:
        rows = listing(session, tenant)
    if as_json:
        print_json(rows)
        return
    print_table(rows, ("name", "tenant", "created_at"), empty="No secret yet. Set one: vdc secret set NAME")


@group.command("set")
@click.argument("name")
@click.option("--tenant", default="", help="Whose; none: the own tenant's, of the site: the site's.")
@click.option("--stdin", "from_stdin", is_flag=True, help="Read it from standard input, a line or a file.")
def set_(name: str, tenant: str, from_stdin: bool) -> None:
    """Keep a secret, asked for or read from standard input; again: another one."""
    from vdc.secrets import key, set_secret
    from vdc.settings import load

    value = sys.stdin.read() if from_stdin else click.prompt(name, hide_input=True, err=True)
    if value.count("\n") == 1:  # a line that some program ended, not a file
        value = value.removesuffix("\n")
    with_key = key(load().secrets_key, make=True)
    with writing() as session:
        new = set_secret(session, name, value, tenant, with_key=with_key, actor=actor())
    print_line(
        f"Secret {name} is {'kept' if new else 'another one now'}: name it as {{{{ secret('{name}') }}}}."
    )


@group.command()
@click.argument("name")
@click.option("--tenant", default="", help="Whose; none: the own tenant's, of the site: the site's.")
def remove(name: str, tenant: str) -> None:
    """Forget a secret; refused while machines are there that were told it."""
    from vdc.secrets import remove_secret

    with writing() as session:
        remove_secret(session, name, tenant, actor=actor())
    print_line(f"Secret {name} is gone.")
