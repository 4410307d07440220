"""`vdc tenant billing`: what is printed on a tenant's bills, its tax, its budget."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import click

from interfaces.cli.output import json_option, print_fields, print_json, print_line
from interfaces.cli.session import reading, writing
from vdc.access import actor

KEYS = ("legal_name", "postal_address", "tax_id", "tax_name", "tax_percent", "monthly_budget")


@click.command()
@click.argument("name")
@click.option("--legal-name", help="Printed on its bills instead of the tenant's name.")
@click.option("--postal-address", help=r"Lines are separated by \n.")
@click.option("--tax-id", help="Its number with the tax office.")
@click.option("--tax-name", help="Such as VAT.")
@click.option("--tax-percent", help="Added to the total of its bills; none: no tax is shown.")
@click.option("--monthly-budget", help="What it means to spend a month, without tax; none: no alerts.")
@json_option
def billing(name: str, as_json: bool, **given: str | None) -> None:
    """What is printed on the bills of tenant NAME, its tax and its budget; options change it."""
    from vdc.customers import change_customer
    from vdc.names import find
    from vdc.schema import Tenant

    values = {key: _value(key, text) for key, text in given.items() if text is not None}
    if values:
        with writing() as session:
            changes = change_customer(session, name, values, actor=actor())
    with reading() as session:
        tenant = find(session, Tenant, "tenant", name)
        shown = {"name": name} | {key: getattr(tenant, key) for key in KEYS}
    if as_json:
        print_json(shown)
        return
    shown["postal_address"] = shown["postal_address"].replace("\n", ", ")
    print_fields({key: None if value == "" else value for key, value in shown.items()})
    if values:
        print_line("; ".join(changes) + "." if changes else "Nothing changed.")


def _value(key: str, text: str) -> Any:
    """Raises Invalid for a number that is none; `none` takes it away."""
    from vdc.customers import TEXTS
    from vdc.errors import Invalid

    if key in TEXTS:
        return text.replace("\\n", "\n").strip()
    if text == "none":
        return None
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise Invalid(f"--{key.replace('_', '-')} {text!r} is refused: give a number, or none.") from error
