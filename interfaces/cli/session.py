"""The inventory, for commands: opened only where it is there and of this version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from vdc import access, inventory
from vdc.identity import acting
from vdc.settings import load


@contextmanager
def reading() -> Iterator[Session]:
    """For whom this process works. Raises Unready, with what to type, where there is no inventory."""
    settings = load()
    inventory.require(settings.inventory_url)
    actor = acting(settings)
    with inventory.read_session(settings.inventory_url) as session:
        access.bind(session, actor)
        yield session


@contextmanager
def writing(*, commit: bool = True) -> Iterator[Session]:
    """As `reading`; with `commit=False` for plans: everything is rolled back."""
    settings = load()
    inventory.require(settings.inventory_url)
    actor = acting(settings)
    with inventory.write_session(settings.inventory_url, commit=commit) as session:
        access.bind(session, actor)
        yield session


def own_tenant() -> str:
    """Name of the tenant that is meant where none is named: of a user the own one, else `default`."""
    actor = acting(load())
    return "default" if actor.of_site or not actor.tenant else actor.tenant
