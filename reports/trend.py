"""When something runs out, by its trend: least squares over daily values, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import ceil, sqrt

import numpy as np

ENOUGH_DAYS = 14
HORIZON_DAYS = 730
"""Beyond this a line through the last months says nothing."""


@dataclass(frozen=True, slots=True)
class Trend:
    """`runs_out` is when the line reaches the capacity; `earliest` and `latest` with the slope two standard
    errors steeper and flatter (None: not within the horizon). `says` is a sentence."""

    days: int
    per_day: float | None
    runs_out: date | None
    earliest: date | None
    latest: date | None
    says: str


def trend(values: Sequence[float], capacity: float | None, today: date) -> Trend:
    """Of one value a day, the last of them today's."""
    if capacity is None:
        return Trend(len(values), None, None, None, None, "its capacity is not known")
    if values and values[-1] >= capacity:
        return Trend(len(values), None, today, today, today, "it is used up")
    if len(values) < ENOUGH_DAYS:
        said = f"not enough history: {len(values)} days of {ENOUGH_DAYS}"
        return Trend(len(values), None, None, None, None, said)
    slope, error = _line(values)
    left = capacity - values[-1]
    middle, early, late = (_when(left, s, today) for s in (slope, slope + 2 * error, slope - 2 * error))
    return Trend(len(values), slope, middle, early, late, _says(slope, middle, early, late))


def _line(values: Sequence[float]) -> tuple[float, float]:
    """Slope and its standard error."""
    y = np.asarray(values, float)
    x = np.arange(len(y)) - (len(y) - 1) / 2
    square = float((x * x).sum())
    slope = float((x * y).sum()) / square
    rest = y - y.mean() - slope * x
    return slope, sqrt(float((rest * rest).sum()) / (len(y) - 2) / square)


def _when(left: float, per_day: float, today: date) -> date | None:
    if per_day <= 0 or left / per_day > HORIZON_DAYS:
        return None
    return today + timedelta(days=ceil(left / per_day))


def _says(slope: float, middle: date | None, early: date | None, late: date | None) -> str:
    if early is None:
        return "it does not grow" if slope <= 0 else f"not within {HORIZON_DAYS} days"
    between = f"between {early} and {late}" if late else f"on {early} at the earliest"
    return f"it runs out on {middle} ({between})" if middle else f"it runs out {between}, if at all"
