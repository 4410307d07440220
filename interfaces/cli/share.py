"""`vdc share`, `vdc unshare`: with whom an object is shared that is not theirs."""

from __future__ import annotations

import click

from interfaces.cli.output import print_line
from interfaces.cli.session import writing
from vdc.access import actor

_what = click.argument("what", metavar="KIND/NAME")
_user = click.option("--with-user", "user", default="", help="Name of the user.")
_tenant = click.option("--with-tenant", "tenant", default="", help="Name of the tenant: all its users.")


@click.command()
@_what
@_user
@_tenant
def share(what: str, user: str, tenant: str) -> None:
    """Let a user or a tenant use an object: vm/web-1, image/tiny, template/web."""
    from vdc import accounts

    with writing() as session:
        changed = accounts.share(session, what, user=user, tenant=tenant, actor=actor())
    print_line(f"{what} is {'' if changed else 'already '}shared with {_whom(user, tenant)}.")


@click.command()
@_what
@_user
@_tenant
def unshare(what: str, user: str, tenant: str) -> None:
    """Take back what was shared."""
    from vdc import accounts

    with writing() as session:
        changed = accounts.unshare(session, what, user=user, tenant=tenant, actor=actor())
    print_line(f"{what} is {'no longer' if changed else 'not'} shared with {_whom(user, tenant)}.")


def _whom(user: str, tenant: str) -> str:
    return f"user {user}" if user else f"tenant {tenant}"
