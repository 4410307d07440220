"""A bill is sound, or it is said what is wrong with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from reports.soundness import Life, unsound
from reports.usage import event_frame
from vdc.months import Window

T0 = datetime(2026, 11, 24, tzinfo=UTC)
WINDOW = Window(T0, T0 + timedelta(hours=10))


def _at(hour: float) -> datetime:
    return T0 + timedelta(hours=hour)


def _events(*told: tuple[str, float]) -> object:
    return event_frame([("t", "v", "web", kind, _at(hour), 1, 64, 32, "local", None) for kind, hour in told])


@pytest.mark.parametrize(
    ("told", "end", "runs", "wrong"),
    [
        ([("created", 1), ("started", 1)], None, True, ""),
        ([("created", 1), ("started", 1), ("stopped", 2)], None, False, ""),
        ([("created", 1), ("started", 1), ("terminated", 3)], 3.0, False, ""),
        ([("created", 1), ("started", 1)], None, False, "is off, and its bill says otherwise"),
        ([("created", 1)], None, True, "runs, and its bill says otherwise"),
        ([("created", 1), ("started", 1)], 3.0, False, "has ended and is charged for ever"),
        ([("created", 0.5), ("started", 0.5)], None, True, "charged disk for longer than it was there"),
        ([("created", 1), ("started", 1), ("terminated", 4)], 3.0, False, "for longer than it was there"),
        # On its way somewhere: both are right.
        ([("created", 1), ("started", 1)], None, None, ""),
        ([], None, None, ""),
    ],
)
def test_what_is_wrong(
    told: list[tuple[str, float]], end: float | None, runs: bool | None, wrong: str
) -> None:
    life = Life("v", "web", _at(1), None if end is None else _at(end), runs)
    found = unsound(_events(*told), [life], WINDOW)  # type: ignore[arg-type]
    assert bool(found) == bool(wrong)
    assert not wrong or any(wrong in problem for problem in found)
