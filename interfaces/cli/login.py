"""`vdc login`, `logout`, `whoami`: for whom commands act."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from interfaces.cli.output import json_option, note, print_fields, print_json, print_line
from vdc.errors import Forbidden, Invalid
from vdc.settings import load

stdin_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")


def read_password(from_stdin: bool, *, new: bool = False) -> str:
    """From the terminal, a `new` one twice, or the first line of standard input. Raises Invalid."""
    if from_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    elif sys.stdin.isatty():
        password = click.prompt("Password", hide_input=True, confirmation_prompt=new, err=True)
    else:
        raise Invalid("There is no terminal to ask for the password on: give --password-stdin.")
    if not password:
        raise Invalid("No password was given.")
    return password


@click.command()
@click.argument("name")
@stdin_option
@click.option("--hours", type=float, help="How long the login lasts; none: the setting token_hours.")
def login(name: str, password_stdin: bool, hours: float | None) -> None:
    """Ask for NAME's password; commands act for NAME until the login expires, or `vdc logout`."""
    from vdc import accounts, inventory
    from vdc.identity import Login

    settings = load()
    inventory.require(settings.inventory_url)
    password = read_password(password_stdin)
    # For nobody yet: whoever logs in need not be let in before.
    with inventory.write_session(settings.inventory_url) as session:
        done = accounts.login(session, name, password, hours or settings.token_hours)
    if isinstance(done, Forbidden):
        raise done
    token, expires = done
    Login(settings.home).write(token)
    print_line(f"Logged in as {name} until {expires:%Y-%m-%d %H:%M} UTC.")
    if os.environ.get("VDC_TOKEN"):
        note("VDC_TOKEN is set, and wins: unset it.")


@click.command()
def logout() -> None:
    """Make the login of this account on this machine good for nothing, and forget it."""
    from vdc import accounts, inventory
    from vdc.identity import Login

    settings = load()
    inventory.require(settings.inventory_url)
    kept = Login(settings.home)
    token = kept.read()
    if not token:
        print_line("Nobody was logged in.")
        return
    if inventory.revision(settings.inventory_url):
        with inventory.write_session(settings.inventory_url) as session:
            accounts.logout(session, token)
    kept.write("")
    print_line("Logged out.")


@click.command()
@json_option
def whoami(as_json: bool) -> None:
    """Say for whom commands act, and by what."""
    from vdc.identity import acting, credentials

    settings = load()
    actor, shown = acting(settings), credentials(settings)
    by = "VDC_TOKEN" if os.environ.get("VDC_TOKEN") else "a login" if shown.token else "the operating system"
    seen: dict[str, Any] = {"name": actor.name, "role": actor.role, "tenant": actor.tenant or None, "by": by}
    if as_json:
        print_json(seen)
        return
    print_fields(seen)
