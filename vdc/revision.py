"""Which schema the program needs, and what to type where the inventory has another. Imports nothing heavy."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from vdc.errors import Unready

MIGRATIONS = Path(__file__).parent / "migrations"


@lru_cache(maxsize=1)
def needed_revision() -> str:
    """The schema that this program works with."""
    # The file names sort by revision: reading alembic's own graph would cost every command its import.
    return sorted(MIGRATIONS.joinpath("versions").glob("[0-9]*.py"))[-1].name.split("_")[0]


def require_revision(found: str | None) -> None:
    """Raise Unready, with what to type, where `found` is not the schema that this program needs."""
    if found is None:
        raise Unready("There is no inventory yet: make it with `vdc up`.")
    if found != needed_revision():
        raise Unready(
            f"The inventory has schema {found}, this program needs {needed_revision()}: run `vdc up`."
        )


def unreadable(cause: object) -> Unready:
    """The error for an inventory that cannot be opened."""
    return Unready(f"The inventory cannot be opened: {cause}. Check the setting database_url.")
