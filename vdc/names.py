"""Names that people give, and how an object is found by them."""

from __future__ import annotations

import re
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.access import visible
from vdc.errors import Conflict, Invalid, NotFound
from vdc.schema import Base

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): a machine's name becomes its hostname."""

Row = TypeVar("Row", bound=Base)


def check_name(what: str, name: str) -> str:
    """Raises Invalid where `name` is no DNS label."""
    if not NAME.fullmatch(name):
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise Invalid(
            f"{what} name {shown!r} is refused: use 1 to 63 lower-case letters, digits and inner hyphens."
        )
    return name


def find(session: Session, table: type[Row], what: str, name: str) -> Row:
    """The row called `name`, if who asks may see it. Raises NotFound, with the names that they may see."""
    columns: Any = table
    seen = visible(session, table)
    row = session.scalars(select(table).where(columns.name == name, seen)).first()
    if row is None:
        known = session.scalars(select(columns.name).where(seen).order_by(columns.name).limit(8)).all()
        raise NotFound(
            f"There is no {what} {name!r}. "
            + (f"Known: {', '.join(known)}." if known else f"No {what} exists yet.")
        )
    return row


def require_new(session: Session, table: type[Base], what: str, name: str) -> None:
    """Raises Invalid for a bad name, Conflict where it is taken."""
    check_name(what, name)
    columns: Any = table
    if session.scalars(select(columns.id).where(columns.name == name)).first() is not None:
        raise Conflict(f"{what} name {name!r} is taken.")
