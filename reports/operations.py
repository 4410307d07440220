"""Operations: how many of each kind succeed, how long they take, and what goes wrong."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session

from reports.html import plain
from reports.report import Report, Section
from vdc.access import check
from vdc.schema import Operation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DAYS = 30
NOTE = (
    "Seconds from the claim to the end, of those that were done; a batch and each of its machines count. "
    "Taken over: went on after their process died or fell silent."
)
ERRORS = 10
ERROR_LENGTH = 160


def ended(session: Session, since: datetime, until: datetime) -> pd.DataFrame:
    """A row for each operation that ended in that time: `kind outcome seconds error attempts`."""
    query = select(
        Operation.kind,
        Operation.outcome,
        Operation.started_at,
        Operation.finished_at,
        Operation.error,
        Operation.attempts,
    ).where(Operation.finished_at >= since, Operation.finished_at < until)
    return pd.DataFrame(
        [
            (kind, outcome, (finished - started).total_seconds(), error, attempts)
            for kind, outcome, started, finished, error, attempts in session.execute(query)
            if finished is not None
        ],
        columns=["kind", "outcome", "seconds", "error", "attempts"],
    )


def by_kind(of: pd.DataFrame) -> pd.DataFrame:
    """A row a kind, the most frequent first. Durations in seconds, of those that were done."""
    rows = []
    for kind, group in of.groupby("kind"):
        done = group[group["outcome"] == "done"]["seconds"]
        rows.append(
            {
                "kind": kind,
                "operations": len(group),
                "done": len(done),
                "failed": len(group) - len(done),
                "success_percent": round(100 * len(done) / len(group), 1),
                "p50_s": _quantile(done, 0.5),
                "p95_s": _quantile(done, 0.95),
                "max_s": _quantile(done, 1.0),
                "taken_over": int((group["attempts"] > 1).sum()),
            }
        )
    names = "kind operations done failed success_percent p50_s p95_s max_s taken_over"
    return pd.DataFrame(rows, columns=names.split()).sort_values(
        ["operations", "kind"], ascending=[False, True], ignore_index=True
    )


def errors(of: pd.DataFrame) -> pd.DataFrame:
    """What went wrong most often: `kind error operations`."""
    failed = of[of["error"].notna()]
    shown = failed["error"].astype(str).str.split("\\n").str[0].str.slice(0, ERROR_LENGTH)
    counted = failed.assign(error=shown).groupby(["kind", "error"]).size().rename("operations").reset_index()
    return counted.sort_values(["operations", "kind"], ascending=[False, True], ignore_index=True).head(
        ERRORS
    )


def operations(session: Session, now: datetime, days: int = DAYS) -> Report:
    """The report, of the last `days`."""
    check(session, "report.see")
    of = ended(session, now - timedelta(days=days), now)
    kinds = by_kind(of)
    still = len(session.scalars(select(Operation.id).where(Operation.finished_at.is_(None))).all())
    words = [f"No operation ended in the last {days} days."]
    if len(of):
        done = int(kinds["done"].sum())
        words = [
            f"{done} of {len(of)} operations of the last {days} days were done ({100 * done / len(of):.1f}%)."
        ]
        worst = kinds[kinds["failed"] > 0].sort_values("success_percent").head(1)
        words += [
            f"Worst: {row.kind}, {row.success_percent:g}% of {row.operations}." for row in worst.itertuples()
        ]
    words.append(f"{still} operation{' is' if still == 1 else 's are'} open.")
    timed = kinds[kinds["done"] > 0].head(15)
    plot = partial(_plot, timed) if len(timed) else None
    return Report(
        "operations",
        "Operations",
        now,
        words,
        [
            Section("kinds", "By kind", kinds, "There is none.", NOTE, plot),
            Section("errors", "What went wrong", errors(of), "Nothing."),
        ],
    )


def _quantile(of: pd.Series, q: float) -> float | None:
    return round(float(of.quantile(q)), 3) if len(of) else None


def _plot(timed: pd.DataFrame, figure: Figure) -> None:
    axes = figure.subplots()
    names = timed["kind"][::-1]
    axes.barh(names, timed["p95_s"].astype(float)[::-1], color="#c9d7ea", label="95 of 100 within")
    axes.barh(names, timed["p50_s"].astype(float)[::-1], color="#1f5fa8", label="half within")
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    axes.set_ylim(-0.8, len(timed) - 0.2)
    plain(axes)
