"""What a machine costs while it runs, by the site's list prices. Decimal throughout; rounded once, here."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

HOURS_PER_MONTH = Decimal(730)
"""A plan's month: a twelfth of 8,760 hours. A bill counts the hours of its calendar month instead."""


@dataclass(frozen=True, slots=True)
class ListPrices:
    vcpu_hour: Decimal = Decimal("0.0080")
    memory_gib_hour: Decimal = Decimal("0.0040")
    disk_gib_month: Decimal = Decimal("0.0500")
    currency: str = "EUR"


def per_hour(prices: ListPrices, vcpu: int, memory_mib: int, disk_mib: int) -> Decimal:
    """Price of one hour of a running machine, unrounded."""
    return (
        prices.vcpu_hour * vcpu
        + prices.memory_gib_hour * memory_mib / 1024
        + prices.disk_gib_month / HOURS_PER_MONTH * disk_mib / 1024
    )


def per_month(hourly: Decimal) -> Decimal:
    """Price of a plan's month (730 hours), rounded to the cent."""
    return (hourly * HOURS_PER_MONTH).quantize(Decimal("0.01"), ROUND_HALF_UP)
