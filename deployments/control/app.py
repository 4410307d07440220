"""The application of the Prefect server, as uvicorn loads it: Prefect's own, with two repairs."""

from __future__ import annotations

from typing import Any

from deployments.control.prefect_env import collect_garbage_rarely


def create_app() -> Any:
    collect_garbage_rarely()
    from prefect.server.api.server import create_app as prefects

    _let_schedules_fire()
    _begin_to_write_at_once()
    return prefects()


def _begin_to_write_at_once() -> None:
    """Make Prefect's writing transactions on SQLite wait for each other, instead of failing.

    Begun as deferred, one that reads first cannot write any more once another has committed: SQLite says
    "database is locked" at once, whatever the busy timeout. The client is told 503, backs off for 2, 4, ...
    32 s, and then gives up: of 60 deployments by six processes on a busy machine one or two never began.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(self: Any, session: Any, with_for_update: bool = False) -> Any:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign]


def _let_schedules_fire() -> None:
    """Make Prefect 3.8 insert scheduled flow runs under SQLAlchemy 2.1.

    Prefect gives the bulk insert a `state`, which is no column: SQLAlchemy 2.0 ignored that, 2.1 raises, and
    no schedule would ever fire. The state is inserted apart, right after.
    """
    from prefect.server.database.orm_models import FlowRun
    from sqlalchemy import inspect

    state: Any = inspect(FlowRun).all_orm_descriptors["state"]
    state.bulk_dml_setter = _ignore


def _ignore(cls: object, mapping: object, value: object) -> None:
    """Stand in for what SQLAlchemy would call to take a value of a bulk insert apart."""
