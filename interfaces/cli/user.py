"""`vdc user ...`: accounts and their tokens."""

from __future__ import annotations

from pathlib import Path

import click

from interfaces.cli.login import read_password, stdin_option
from interfaces.cli.output import json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import Role, actor
from vdc.settings import load

ROLES = [role.value for role in Role]
COLUMNS = ("name", "tenant", "role", "state", "password", "ssh_keys", "token_until")


@click.group()
def group() -> None:
    """Who may do what: accounts and their tokens."""


@group.command("list")
@click.option("--tenant", default="", help="Only this tenant's.")
@json_option
def list_(tenant: str, as_json: bool) -> None:
    """Users, by name; TOKEN UNTIL is when the last of their tokens expires."""
    from vdc.accounts import users

    with reading() as session:
        rows = users(session, tenant)
    if as_json:
        print_json(rows)
        return
    print_table(rows, COLUMNS, empty="No user yet. Make one: vdc user add NAME --role user --tenant NAME")


@group.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), default=Role.USER.value, show_default=True)
@click.option("--tenant", help="Whose user; none: the own tenant, of the site: default.")
@click.option("--ssh-key", "ssh_keys", multiple=True, type=click.Path(path_type=Path), help=".pub file.")
@stdin_option
@click.option("--no-password", is_flag=True, help="Nobody logs in as this user but by a token.")
@json_option
def add(
    name: str,
    role: str,
    tenant: str | None,
    ssh_keys: tuple[Path, ...],
    password_stdin: bool,
    no_password: bool,
    as_json: bool,
) -> None:
    """Make a user; the password is asked for."""
    from interfaces.cli.session import own_tenant
    from vdc.accounts import create_user, users
    from vdc.errors import Invalid

    try:
        keys = [file.read_text().strip() for file in ssh_keys]
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"The SSH key cannot be read: {error}.") from error
    password = None if no_password else read_password(password_stdin, new=True)
    whose = tenant or own_tenant()
    with writing() as session:
        create_user(session, name, role=role, tenant=whose, password=password, ssh_keys=keys, actor=actor())
        row = next(r for r in users(session) if r["name"] == name)
    if as_json:
        print_json(row)
        return
    print_line(f"User {name} of tenant {whose} is {role}.")


@group.command()
@click.argument("name")
def disable(name: str) -> None:
    """Let a user in no more: the password is good for nothing, and the tokens are gone."""
    _set_enabled(name, False)


@group.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a user in again."""
    _set_enabled(name, True)


@group.command()
@click.argument("name")
def unlock(name: str) -> None:
    """Let a user try to log in again at once, after too many logins that failed."""
    from vdc.accounts import unlock as let_in

    with writing() as session:
        failed = let_in(session, name, actor=actor())
    print_line(f"User {name} {'can log in again' if failed else 'was not locked'}.")


def _set_enabled(name: str, enabled: bool) -> None:
    from vdc.accounts import set_enabled

    with writing() as session:
        changed = set_enabled(session, name, enabled, actor=actor())
    print_line(f"User {name} is {'' if changed else 'already '}{'enabled' if enabled else 'disabled'}.")


@group.command()
@click.argument("name")
@stdin_option
def passwd(name: str, password_stdin: bool) -> None:
    """Change a user's password; tokens that there are become good for nothing."""
    from vdc.accounts import set_password

    password = read_password(password_stdin, new=True)
    with writing() as session:
        set_password(session, name, password, actor=actor())
    print_line(f"The password of {name} is changed, and all tokens of {name} are gone.")


@group.command()
@click.argument("name")
@click.option("--hours", type=float, help="How long it lasts; none: the setting token_hours.")
@json_option
def token(name: str, hours: float | None, as_json: bool) -> None:
    """Print a token for VDC_TOKEN. It is shown this once."""
    from vdc.accounts import issue_token

    with writing() as session:
        made, expires = issue_token(session, name, hours or load().token_hours, actor=actor())
    if as_json:
        print_json({"token": made, "expires_at": expires})
        return
    print_line(made)
    note(f"It is {name}'s until {expires:%Y-%m-%d %H:%M} UTC.")
