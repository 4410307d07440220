"""Benchmarks of several runs side by side: from the CSV files that `make bench` writes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from reports.html import plain
from reports.report import Report, Section
from vdc.errors import Invalid, NotFound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ["part", "figure", "unit", "median", "min", "max", "n", "target", "verdict", "date", "machine"]
NOTE = "Before: of the run before. A change within the minimum and maximum of both runs is noise."


def read_results(files: Sequence[Path]) -> pd.DataFrame:
    """All rows, those of the oldest run first. Raises NotFound, Invalid."""
    frames = []
    for file in files:
        if not file.is_file():
            raise NotFound(f"There are no benchmark results in {file}. Measure with `make bench`.")
        try:
            frame = pd.read_csv(file, dtype={"target": "str", "verdict": "str"}, keep_default_na=False)
            if missing := [name for name in COLUMNS if name not in frame]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            numbers = frame.astype(dict.fromkeys(("median", "min", "max"), "float64"))
        except (OSError, ValueError) as error:
            raise Invalid(f"The benchmark results in {file} cannot be read: {error}.") from error
        frames.append(numbers)
    return pd.concat(frames, ignore_index=True).sort_values("date", kind="stable", ignore_index=True)


def comparison(results: pd.DataFrame) -> pd.DataFrame:
    """A row a figure: as the newest run has it, and as the one before had it.

    `change_percent` is of the medians; `noise`: each median lies within the other run's minimum and maximum.
    """
    rows = []
    for (part, figure), group in results.groupby(["part", "figure"], sort=False):
        now, before = group.iloc[-1], group.iloc[-2] if len(group) > 1 else None
        row = {"part": part, "figure": figure}
        row |= {name: now[name] for name in ("unit", "median", "min", "max")}
        row |= {"target": now["target"] or None, "verdict": now["verdict"] or None, "date": now["date"]}
        row |= {"before": None, "change_percent": None, "noise": None}
        if before is not None:
            row["before"] = before["median"]
            if before["median"]:
                row["change_percent"] = round(100 * (now["median"] / before["median"] - 1), 1)
            row["noise"] = bool(
                before["min"] <= now["median"] <= before["max"]
                and now["min"] <= before["median"] <= now["max"]
            )
        rows.append(row)
    names = "part figure unit median min max before change_percent noise target verdict date"
    return pd.DataFrame(rows, columns=names.split())


def benchmarks(files: Sequence[Path], now: datetime) -> Report:
    """The report. Raises NotFound, Invalid."""
    results = read_results(files)
    found = comparison(results)
    runs = results[["date", "machine"]].drop_duplicates(ignore_index=True)
    missed = found[found["verdict"] == "MISS"]
    real = found[found["change_percent"].notna() & (found["noise"] == False)]  # noqa: E712 - a column
    words = [f"{len(missed)} of {int(found['verdict'].notna().sum())} targets are missed."]
    words += [
        f"Missed: {row.part}, {row.figure}: {row.median:g} {row.unit}, {row.target}."
        for row in missed.itertuples()
    ]
    words.append(
        f"{len(real)} of {int(found['change_percent'].notna().sum())} figures changed by more than noise."
        if len(runs) > 1
        else "There is one run: give more files to compare."
    )
    if runs["machine"].str.split(", load").str[0].nunique() > 1:
        words.append("The runs are of different machines: their times cannot be compared.")
    plot = partial(_plot, real) if len(real) else None
    return Report(
        "benchmarks",
        "Benchmarks",
        now,
        words,
        [
            Section("figures", "Figures", found, "There is none.", NOTE, plot),
            Section("runs", "Runs", runs, "There is none."),
        ],
    )


def _plot(real: pd.DataFrame, figure: Figure) -> None:
    axes = figure.subplots()
    shown = real.reindex(real["change_percent"].astype(float).abs().sort_values(ascending=False).index).head(
        15
    )[::-1]
    change = shown["change_percent"].astype(float)
    names = shown["part"] + ": " + shown["figure"].str.slice(0, 40)
    axes.barh(names, change, color=["#b5533c" if c > 0 else "#3c8f6b" for c in change])
    axes.axvline(0, color="#1c2430", linewidth=0.8)
    axes.set_xlabel("% against the run before")
    plain(axes)
