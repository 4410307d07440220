"""The inventory, for commands: opened only where it is there and of this version."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from vdc import inventory
from vdc.settings import load


@contextmanager
def reading() -> Iterator[Session]:
    """Raises Unready, with what to type, where there is no inventory."""
    url = load().inventory_url
    inventory.require(url)
    with inventory.read_session(url) as session:
        yield session


@contextmanager
def writing(*, commit: bool = True) -> Iterator[Session]:
    """As `reading`; with `commit=False` for plans: everything is rolled back."""
    url = load().inventory_url
    inventory.require(url)
    with inventory.write_session(url, commit=commit) as session:
        yield session
