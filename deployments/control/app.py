"""The application of the Prefect server, as uvicorn loads it: Prefect's own, with one repair."""

from __future__ import annotations

from typing import Any


def create_app() -> Any:
    from prefect.server.api.server import create_app as prefects

    _let_schedules_fire()
    return prefects()


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
