"""The PostgreSQL of the tests: fresh databases, and nothing left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from tests.postgres import PostgresServer, running_server


def test_every_test_gets_an_empty_database(inventory_url: str) -> None:
    engine = create_engine(inventory_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE t (a INTEGER)"))
        connection.execute(text("INSERT INTO t VALUES (1)"))
        assert connection.execute(text("SELECT a FROM t")).scalar_one() == 1
    engine.dispose()


@pytest.mark.postgres
def test_a_database_goes_although_somebody_is_connected(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as first, postgres_server.database() as second:
        assert first != second
        engine = create_engine(first)
        abandoned = engine.connect()
        abandoned.execute(text("SELECT 1"))
    with postgres_server.connect() as connection:
        names = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
    assert not names & {first.split("/")[-1].split("?")[0], second.split("/")[-1].split("?")[0]}
    abandoned.invalidate()
    engine.dispose()


class FailingTest(Exception):
    """Stands for one."""


@pytest.mark.postgres
def test_no_server_is_left_after_a_failure() -> None:
    seen: list[tuple[int, Path]] = []

    def use() -> None:
        with running_server() as server:
            seen.append(
                (int((server.directory / "data/postmaster.pid").read_text().split()[0]), server.directory)
            )
            raise FailingTest

    with pytest.raises(FailingTest):
        use()
    ((pid, directory),) = seen
    assert not directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
