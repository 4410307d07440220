"""`vdc usage`: the running month."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_table
from interfaces.cli.session import reading


@click.command()
@click.option("--tenant", default="", help="Only this tenant's.")
@click.option("--tariff", default="", metavar="FILE", help="Prices from a TOML or YAML file.")
@json_option
def usage(tenant: str, tariff: str, as_json: bool) -> None:
    """What tenants used in the running month, what it costs so far, and by its end as things stand."""
    from interfaces.cli.bill import read_tariff
    from reports.forecast import METHOD
    from reports.running import running_month
    from vdc.billing import read_tenants
    from vdc.schema import utc_now

    prices = read_tariff(tariff)
    with reading() as session:
        rows = running_month(session, read_tenants(session, tenant), prices, utc_now())
    if as_json:
        print_json(rows)
        return
    columns = (
        "tenant",
        "month",
        "machines",
        "vcpu_hours",
        ("memory_gib_hours", "MEM GIB HOURS"),
        "disk_gib_hours",
        "ec2_hours",
        "cost",
        "forecast",
        "range",
        "budget",
        "currency",
    )
    print_table([row | _shown(row) for row in rows], columns, empty="There is no tenant.")
    note(METHOD + ".")


def _shown(row: dict[str, Any]) -> dict[str, str]:
    days = row["forecast_history_days"]
    low, high, budget = row["forecast_low"], row["forecast_high"], row["budget"]
    return {
        "range": f"{low} to {high}" if low is not None else f"not enough history ({days} days)",
        "budget": f"{row['budget_used_percent']:g}% of {budget}" if budget else "-",
    }
