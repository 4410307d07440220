"""The inventory database: sessions that lose no update, and migrations.

Every change goes through one `write_session`, which serialises writers of a site before they read: SQLite
by `BEGIN IMMEDIATE` (its default, a deferred transaction, silently loses updates), PostgreSQL by an
advisory lock held until the commit. So a claim may read, decide and write as if it were alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from vdc.revision import MIGRATIONS, require_revision, unreadable
from vdc.schema import Site, Tenant, new_id, utc_now

WRITER_LOCK = 0x766463  # "vdc"
BUSY_TIMEOUT_S = 120.0


@lru_cache(maxsize=8)
def _engine(url: str, pid: int) -> Engine:
    # pid is part of the key: a connection must not be shared across a fork.
    if not url.startswith("sqlite"):
        return create_engine(url, pool_size=10, max_overflow=20, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # FULL: a claim must survive a power cut, or what it announced on a host would have no row.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("vdc_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def engine(url: str) -> Engine:
    """The engine of this process for `url`."""
    return _engine(url, os.getpid())


@contextmanager
def write_session(url: str, *, commit: bool = True) -> Iterator[Session]:
    """A session that excludes every other writer; commits at the end, rolls back on an error.

    With `commit=False` everything is rolled back: how a plan looks at what a claim would do.
    """
    with engine(url).connect() as raw:
        connection = raw.execution_options(vdc_write=True)
        with connection.begin() as transaction, Session(connection, expire_on_commit=False) as session:
            if connection.dialect.name == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": WRITER_LOCK})
            yield session
            session.flush()
            if not commit:
                transaction.rollback()


@contextmanager
def read_session(url: str) -> Iterator[Session]:
    """A session for reading: a consistent view, no lock."""
    with engine(url).connect() as connection, Session(connection) as session:
        yield session


def _alembic_config(url: str) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def migrate(url: str) -> None:
    """Bring the schema of `url` to this version and make what must exist: the site and tenant `default`."""
    from alembic import command

    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(_alembic_config(url), "head")
    with write_session(url) as session:
        if session.query(Site).first() is None:
            session.add(Site(id=new_id(), created_at=utc_now()))
        if session.query(Tenant).filter_by(name="default").first() is None:
            session.add(Tenant(name="default"))


def revision(url: str) -> str | None:
    """The schema revision of `url`, None where there is no inventory yet."""
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return None
    with engine(url).connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def require(url: str) -> None:
    """Raise Unready, with what to type, where the inventory is missing or of another version."""
    try:
        found = revision(url)
    except DatabaseError as error:
        raise unreadable(error.orig) from error
    require_revision(found)
