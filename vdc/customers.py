"""Who pays a bill and who sends it, the tax on it, and the budget of a tenant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from sqlalchemy.orm import Session

from vdc import operations
from vdc.documents import Document, Party
from vdc.errors import Invalid
from vdc.names import find
from vdc.operations import Opening
from vdc.schema import Tenant
from vdc.tariff import to_cent

MOST_BUDGET = Decimal(1_000_000_000)
TEXTS = {"legal_name": 200, "postal_address": 500, "tax_id": 40, "tax_name": 40}
"""What a tenant's bill says of it, and how many characters each may have."""


def addressed(document: Document, tenant: Tenant, seller: Party) -> Document:
    """The bill with both sides, and with the tenant's tax.

    It adds `seller`, `customer`, `tax` (None, or `name percent amount`) and `payable`.
    """
    customer = Party(tenant.legal_name or tenant.name, tenant.postal_address, tenant.tax_id)
    total, tax = Decimal(document["total"]), None
    if tenant.tax_percent is not None:
        amount = tax_on(total, tenant.tax_percent)
        tax = {"name": tenant.tax_name, "percent": format(tenant.tax_percent, "f"), "amount": str(amount)}
        total += amount
    sides = {"seller": asdict(seller), "customer": asdict(customer)}
    return document | sides | {"tax": tax, "payable": str(total)}


def tax_on(total: Decimal, percent: Decimal) -> Decimal:
    """Of the sum of a document's lines, rounded to the cent once."""
    return to_cent(total * percent / 100)


def credited_tax(billed: Document, before: Decimal, total: Decimal) -> dict[str, str] | None:
    """The tax that goes back with `total` of a bill of which `before` went back already.

    That of all that is given back, less what went back: credit notes for a whole bill add up to its tax.
    """
    tax: dict[str, str] | None = billed["tax"]
    if tax is None:
        return None
    percent = Decimal(tax["percent"])
    amount = tax_on(before + total, percent) - tax_on(before, percent)
    return tax | {"amount": str(amount)}


def change_customer(session: Session, name: str, values: Mapping[str, Any], *, actor: str) -> list[str]:
    """Set what is given of TEXTS, `tax_percent` and `monthly_budget`; returns what changed, a line each.

    Bills that were issued stay as they are. Raises NotFound for an unknown tenant, Invalid for a value that
    cannot be.
    """
    tenant = find(session, Tenant, "tenant", name)
    for key, value in values.items():
        _check(key, value)
    changes = []
    for key, value in values.items():
        old = getattr(tenant, key)
        if old != value:
            changes.append(f"{key.replace('_', ' ')}: {_shown(old)} -> {_shown(value)}")
            setattr(tenant, key, value)
    if tenant.tax_percent is not None and not tenant.tax_name:
        raise Invalid(f"The tax of tenant {name} needs a name, such as VAT: give --tax-name too.")
    if changes:
        opening = Opening("change", "tenant", tenant.id, name, {"changes": changes})
        operations.close(session, operations.open_one(session, opening, actor=actor))
    return changes


def _shown(value: object) -> str:
    return "none" if value in (None, "") else " ".join(str(value).split())


def _check(key: str, value: Any) -> None:
    what = key.replace("_", " ")
    if key in TEXTS:
        if len(value) > TEXTS[key] or not all(c.isprintable() or c == "\n" for c in value):
            raise Invalid(f"The {what} is refused: it has at most {TEXTS[key]} printable characters.")
        return
    if value is None:
        return
    most = Decimal(100) if key == "tax_percent" else MOST_BUDGET
    if not value.is_finite() or not 0 <= value <= most or value != round(value, 4):
        raise Invalid(
            f"The {what} {value} is refused: give a number from 0 to {most:,} with at most 4 decimal places."
        )
