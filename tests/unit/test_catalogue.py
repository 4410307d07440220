"""Every flow is in the catalogue, and what runs by schedule runs when it should."""

from __future__ import annotations

import ast
from datetime import UTC, datetime

from deployments.catalogue import CATALOGUE
from vdc.months import Month
from vdc.settings import CHECKOUT


def _flows() -> dict[str, str]:
    """Entrypoint by name of each flow, read without importing Prefect."""
    found = {}
    for file in sorted((CHECKOUT / "flows").glob("*.py")):
        for function in ast.parse(file.read_text()).body:
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in function.decorator_list:
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "flow":
                    name = next(k.value for k in call.keywords if k.arg == "name")
                    assert isinstance(name, ast.Constant)
                    found[str(name.value)] = f"flows.{file.stem}.{function.name}"
    return found


def test_every_flow_has_its_row_and_every_row_its_flow() -> None:
    assert {row.flow: row.entrypoint for row in CATALOGUE} == _flows()
    assert len(CATALOGUE) == len(_flows())


def test_the_last_month_is_over_everywhere_when_bills_are_due() -> None:
    minute, hour, day, *rest = next(row.cron for row in CATALOGUE if row.flow == "bill").split()
    assert rest == ["*", "*"]
    due = datetime(2026, 11, int(day), int(hour), int(minute), tzinfo=UTC)
    assert Month.of(due, "UTC").preceding == Month(2026, 10)
    # UTC-12 is the last to leave a month (POSIX names the sign the other way round).
    assert Month(2026, 10).window("Etc/GMT+12").end <= due
