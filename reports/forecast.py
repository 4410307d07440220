"""What a month will have cost by its end: as things stand, and between what bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from vdc.tariff import to_cent

HISTORY_DAYS = 14
"""Whole days that the bounds look back upon, at most."""
ENOUGH_DAYS = 5
METHOD = (
    "forecast: every machine stays as it is now until the month ends; range: each remaining day costs as "
    f"little as the cheapest, or as much as the dearest, of the last {HISTORY_DAYS} whole days"
)


@dataclass(frozen=True, slots=True)
class Range:
    """Between what bounds the month's cost is; None where there is not enough history. `days`: how much."""

    low: Decimal | None
    high: Decimal | None
    days: int


def bounds(days: Sequence[float], cost: Decimal, forecast: Decimal, rest_days: float) -> Range:
    """From the cost of whole days (the last one is yesterday), what it cost so far, and the forecast.

    Days before anything was ever used tell nothing. The forecast itself always lies within the bounds.
    """
    first = next((n for n, day in enumerate(days) if day), len(days))
    seen = list(days[first:])[-HISTORY_DAYS:]
    if len(seen) < ENOUGH_DAYS:
        return Range(None, None, len(seen))
    low, high = (to_cent(cost + Decimal(day * rest_days)) for day in (min(seen), max(seen)))
    return Range(min(low, forecast), max(high, forecast), len(seen))
