"""Plain SELECTs for commands that must answer at once: importing SQLAlchemy takes longer than they may.

One SQL text for all databases, with `:named` parameters: SQLite is read by Python's own module, others
through SQLAlchemy. Only what is measured to need it reads so (docs/benchmarks.md).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vdc.revision import require_revision, unreadable

SQLITE = "sqlite:///"

Select = Callable[[str, dict[str, object]], list[tuple[Any, ...]]]
"""Runs a SELECT with its parameters and returns all rows."""


@contextmanager
def reader(url: str) -> Iterator[Select]:
    """One consistent view of the inventory.

    Raises Unready, with what to type, where there is none or one of another version.
    """
    if not url.startswith(SQLITE):
        from sqlalchemy import text

        from vdc import inventory

        inventory.require(url)
        with inventory.engine(url).connect() as connection:
            yield lambda sql, given: [tuple(row) for row in connection.execute(text(sql), given)]
        return
    file = Path(url.removeprefix(SQLITE))
    if not file.exists():
        require_revision(None)
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True, isolation_level=None)
        ) as database:
            database.execute("BEGIN")
            require_revision(_revision(database))
            yield lambda sql, given: database.execute(sql, given).fetchall()
    except sqlite3.DatabaseError as error:
        raise unreadable(error) from error


def instant(value: Any) -> datetime | None:
    """An instant as it came from a database: SQLite keeps text without a time zone, which is UTC."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if value is None:
        return None
    found: datetime = value
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _revision(database: sqlite3.Connection) -> str | None:
    there = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
    row = database.execute("SELECT version_num FROM alembic_version").fetchone() if there else None
    return str(row[0]) if row else None
