"""The forms in which a driver call fails, and how they are spread over the calls of a flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FORMS: dict[str, dict[str, Any]] = {
    "fails": {},
    "happens-but-the-answer-is-lost": {"after": True},
    "busy-then-fine": {"times": 2, "error": "Busy"},
    "unreachable-for-too-long": {"times": 3, "error": "HostUnreachable"},
    "stops-halfway": {"halfway": True},
    "happens-but-times-out": {"error": "TimedOut", "after": True},
}
"""Arguments of `Simulation.fail_next`. Calls are tried three times (tests/prefect_fixture.py)."""
PASSING = ("busy-then-fine", "happens-but-times-out")
"""Those which a retry gets over."""


def spread(cases: Sequence[Any], forms: Sequence[str] = tuple(FORMS)) -> list[tuple[Any, ...]]:
    """Arguments for `parametrize`: each case with two of the forms, in turn.

    Every call of a flow fails, and each form occurs wherever there are half as many cases as forms. All forms
    of all calls would take three times as long, and only ever found what two of them had found.
    """
    return [
        (*(case if isinstance(case, tuple) else (case,)), forms[(2 * n + more) % len(forms)])
        for n, case in enumerate(cases)
        for more in (0, 1)
    ]
