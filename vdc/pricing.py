"""What a plan says that a machine costs while it runs. A bill counts for itself: reports/bill.py."""

from __future__ import annotations

from decimal import Decimal

from vdc.tariff import Tariff, to_cent

HOURS_PER_MONTH = Decimal(730)
"""A plan's month: a twelfth of 8,760 hours. A bill counts the hours of its calendar month instead."""

ListPrices = Tariff


def per_hour(tariff: Tariff, vcpu: int, memory_mib: int, disk_mib: int) -> Decimal:
    """Price of one hour of a running machine, unrounded."""
    return (
        tariff.vcpu_hour * vcpu
        + tariff.memory_gib_hour * memory_mib / 1024
        + tariff.disk_gib_month / HOURS_PER_MONTH * disk_mib / 1024
    )


def per_month(hourly: Decimal) -> Decimal:
    """Price of a plan's month (730 hours), rounded to the cent."""
    return to_cent(hourly * HOURS_PER_MONTH)
