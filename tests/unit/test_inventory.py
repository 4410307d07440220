"""The inventory on both kinds of database: no update is lost, the schema is what the models say."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select, text, update

from tests.unit.increments import increment
from vdc.errors import Unready
from vdc.inventory import engine, migrate, read_session, require, revision, write_session
from vdc.schema import Base, Site, Tenant

PROCESSES, INCREMENTS = 4, 100


def test_no_update_is_lost(inventory_url: str) -> None:
    """With SQLite's own default, a deferred transaction, 100 of 400 increments survived."""
    migrate(inventory_url)
    # A fork would take over locks that threads of other tests held just then.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=increment, args=(inventory_url, INCREMENTS)) for _ in range(PROCESSES)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
            assert worker.exitcode == 0
    finally:
        for worker in workers:
            worker.kill()
    with read_session(inventory_url) as session:
        assert session.scalar(select(Tenant.max_vms)) == PROCESSES * INCREMENTS


def test_the_migrations_make_what_the_models_say(inventory_url: str) -> None:
    migrate(inventory_url)
    with engine(inventory_url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_makes_nothing_twice(inventory_url: str) -> None:
    migrate(inventory_url)
    with read_session(inventory_url) as session:
        site = session.scalars(select(Site.id)).one()
    migrate(inventory_url)
    with read_session(inventory_url) as session:
        assert session.scalars(select(Site.id)).one() == site
        assert session.scalars(select(Tenant.name)).all() == ["default"]


def test_what_is_not_committed_never_was(inventory_url: str) -> None:
    migrate(inventory_url)
    rename = update(Tenant).values(name="other")
    with write_session(inventory_url, commit=False) as session:
        session.execute(rename)
    with pytest.raises(ZeroDivisionError), write_session(inventory_url) as session:  # noqa: PT012
        session.execute(rename)
        _ = 1 / 0
    with read_session(inventory_url) as session:
        assert session.scalars(select(Tenant.name)).all() == ["default"]


def test_a_reader_does_not_wait_for_a_writer(inventory_url: str) -> None:
    migrate(inventory_url)
    with write_session(inventory_url) as writer:
        writer.execute(update(Tenant).values(name="other"))
        with read_session(inventory_url) as reader:
            assert reader.scalars(select(Tenant.name)).all() == ["default"]


def test_no_inventory_yet(inventory_url: str) -> None:
    assert revision(inventory_url) is None
    with pytest.raises(Unready, match="There is no inventory yet: make it with `vdc up`"):
        require(inventory_url)


def test_an_inventory_of_another_version(inventory_url: str) -> None:
    migrate(inventory_url)
    require(inventory_url)
    with write_session(inventory_url) as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Unready, match=r"has schema 9999, this program needs .*: run `vdc up`"):
        require(inventory_url)


def test_an_inventory_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(Unready, match="Check the setting database_url"):
        require(f"sqlite:///{tmp_path / 'directory'}")
    (tmp_path / "text").write_text("this is no database, whatever its name says\n" * 50)
    with pytest.raises(Unready, match="Check the setting database_url"):
        require(f"sqlite:///{tmp_path / 'text'}")
    with pytest.raises(Unready, match="Check the setting database_url"):
        require(f"postgresql+psycopg://nobody@/nothing?host={tmp_path}")
