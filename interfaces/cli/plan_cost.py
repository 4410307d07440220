"""What `--plan` says of costs, the same everywhere; what they are, vdc/plan_costs.py says."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from interfaces.cli.output import Columns, note, print_json, print_line, print_table

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from vdc.plan_costs import Prices
    from vdc.pricing import Cost


def prices(session: Session) -> Prices:
    """The tariffs in force, for the plan whose transaction this is."""
    from vdc.plan_costs import Prices
    from vdc.settings import load

    return Prices(session, load().prices)


def cost_keys(cost: Cost) -> dict[str, Any]:
    """Keys that every plan's JSON has, of each thing that is charged: money as text, null if not known."""
    from vdc.pricing import per_month

    keys: dict[str, Any] = {}
    for when, hourly in (("_before", cost.before), ("", cost.after)):
        keys[f"cost_per_hour{when}"] = None if hourly is None else f"{hourly:.4f}"
        keys[f"cost_per_month{when}"] = None if hourly is None else str(per_month(hourly))
    is_ = "unknown" if cost.after is None else "at most" if cost.at_most else "exact"
    return keys | {"cost_is": is_, "cost_note": cost.note or None, "currency": cost.currency}


def print_cost(cost: Cost, what: str = "Cost") -> None:
    """One line: an hour and a month, before the act and after it."""
    from vdc.pricing import told

    print_line(f"{what}: {told(cost)}")


def print_costs(costs: Sequence[Cost], names: Sequence[str]) -> None:
    """Of several things: their sum, and of each whose cost is not known why."""
    from vdc.pricing import Cost

    for cost, name in zip(costs, names, strict=True):
        if cost.after is None:
            print_cost(cost, f"Cost of {name}")
    known = [cost for cost in costs if cost.before is not None and cost.after is not None]
    for currency in dict.fromkeys(cost.currency for cost in known):
        of = [cost for cost in known if cost.currency == currency]
        notes = dict.fromkeys(cost.note for cost in of if cost.note)
        before = sum((cost.before for cost in of if cost.before is not None), Decimal(0))
        after = sum((cost.after for cost in of if cost.after is not None), Decimal(0))
        at_most = any(cost.at_most for cost in of)
        print_cost(Cost(before, after, currency, at_most, " ".join(notes)), "Cost")


def cost_column(cost: Cost) -> dict[str, str]:
    """For a table of several things: a month, before and after."""
    keys = cost_keys(cost)
    if cost.after is None:
        return {"a_month": "not known"}
    return {"a_month": f"{keys['cost_per_month_before']} -> {keys['cost_per_month']} {cost.currency}"}


def print_batch_plan(
    would: str,
    rows: Sequence[dict[str, Any]],
    costs: Sequence[Cost],
    as_json: bool,
    *,
    columns: Columns,
    such: str = "",
) -> None:
    """`would` (`Would stop`) be done to machines, one a row with `name tenant host`, at these costs."""
    if as_json:
        print_json([row | cost_keys(cost) for row, cost in zip(rows, costs, strict=True)])
        return
    print_line(f"{would} {len(rows)} machine{'s' * (len(rows) != 1)}{such}:")
    shown = [row | cost_column(cost) for row, cost in zip(rows, costs, strict=True)]
    print_table(shown, ("name", "tenant", "host", *columns, "a_month"))
    print_costs(costs, [str(row["name"]) for row in rows])
    note("Nothing was touched.")
