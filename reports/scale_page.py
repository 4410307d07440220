"""A scale test as a page: figures, pictures and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jinja2 import Template
from markupsafe import Markup

from reports.html import draw, plain, template
from reports.scale_test import (
    DRIVERS,
    ORDER,
    TARGET,
    Frames,
    counted,
    median_of,
    percentiles,
    ratios,
    summary,
    words,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"ours": "#1f5fa8", "floor": "#c98a1b"}
SOURCES = ("#1f5fa8", "#4fa3a5", "#9b4f96", "#c98a1b", "#5b6675", "#b5483a")


@lru_cache(maxsize=1)
def _template() -> Template:
    return template(
        "scale_test.html", number=lambda value: f"{value:,.3g}", ms=lambda seconds: f"{1000 * seconds:,.1f}"
    )


def page(frames: Frames, about: Mapping[str, Any]) -> str:
    """The scale test as HTML."""
    table = summary(frames)
    return _template().render(
        about=about,
        request=about["request"],
        target=TARGET,
        ratio=median_of(table, "deploy and terminate", "ours / floor", "ratio"),
        rate=median_of(table, "deploy", "ours", "machines/s"),
        words=words(frames, about),
        pictures=_pictures(frames, about),
        figures=table.to_dict("records"),
        percentiles=percentiles(frames).to_dict("records"),
    )


def _pictures(frames: Frames, about: Mapping[str, Any]) -> list[tuple[str, str, Markup]]:
    """Title, explanation and picture of each."""
    found = []
    if not counted(frames).phases.empty:
        found.append(
            (
                "Rate",
                "Machines whose last step on a host is done, by seconds since they were asked for; a line "
                "a repetition.",
                draw("rate", (7.6, 3.0), partial(_plot_rate, frames)),
            )
        )
        found.append(
            (
                "Latency by phase",
                "How long a machine is in each phase: the bar is the median, the line goes to the 90th "
                "percentile, the dot is the 99th.",
                draw("latency", (7.6, 6.2), partial(_plot_latency, frames)),
            )
        )
    if not ratios(frames).empty:
        found.append(
            (
                "Ours against the floor",
                f"Wall time in units of the floor, repetition by repetition; the dashed line is {TARGET}.",
                draw("ratio", (7.6, 2.6), partial(_plot_ratio, frames)),
            )
        )
    if len(frames.samples):
        found.append(
            (
                "CPU and memory",
                "Sampled once a second. Blue ground: our turn; yellow: the floor's; white: the Prefect "
                "server comes to rest.",
                draw("load", (7.6, 7.6), partial(_plot_load, frames, about)),
            )
        )
    return found


def _plot_rate(frames: Frames, figure: Figure) -> None:
    for axes, action, title in zip(
        figure.subplots(1, 2, sharey=True), ("deploy", "terminate"), ("made", "removed"), strict=True
    ):
        own = counted(frames).phases
        own = own[(own["action"] == action) & own["phase"].isin(DRIVERS)]
        for (side, repetition), rows in own.groupby(["side", "repetition"]):
            rounds = frames.rounds
            this = (rounds["side"] == side) & (rounds["repetition"] == repetition)
            begun = float(rounds[this & (rounds["action"] == action)]["begun"].iloc[0])
            ends = np.sort(rows.groupby("vm_id")["ended"].max().to_numpy()) - begun
            label = str(side) if f"_{side}" not in axes.get_label() else None
            axes.set_label(f"{axes.get_label()}_{side}")
            axes.step(
                [0.0, *ends],
                range(len(ends) + 1),
                where="post",
                color=COLOURS[str(side)],
                linewidth=1.4,
                alpha=0.8,
                label=label,
            )
        axes.set_xlabel("seconds")
        axes.set_title(title, fontsize=12, loc="left")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        plain(axes)
    figure.axes[0].set_ylabel("machines")
    figure.axes[0].legend(frameon=False, loc="lower right")


def _plot_latency(frames: Frames, figure: Figure) -> None:
    table = percentiles(frames)
    table = table[table["phase"] != "whole"]
    parts = [table[table["action"] == action] for action in ("deploy", "terminate")]
    heights = [max(1, part["phase"].nunique()) for part in parts]
    for axes, part, title in zip(
        figure.subplots(2, 1, sharex=True, height_ratios=heights), parts, ("made", "removed"), strict=True
    ):
        names = [phase for phase in ORDER if phase in set(part["phase"])]
        both = part["side"].nunique() > 1
        for side, rows in part.groupby("side"):
            shift = {"ours": -0.2, "floor": 0.2}[str(side)] if both else 0.0
            at = [names.index(phase) + shift for phase in rows["phase"]]
            colour = COLOURS[str(side)]
            p50, p90, p99 = (1000 * rows[f"p{p}"].to_numpy() for p in (50, 90, 99))
            axes.barh(at, p50, height=0.36 if both else 0.6, color=colour, label=str(side))
            axes.hlines(at, p50, p90, color=colour, linewidth=1.5)
            axes.plot(p99, at, "o", color=colour, markersize=4)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=12, loc="left")
        plain(axes)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlim(left=0)
    axes.set_xlabel("milliseconds")
    figure.axes[0].legend(frameon=False, loc="lower right")


def _plot_ratio(frames: Frames, figure: Figure) -> None:
    table = ratios(frames)
    axes = figure.subplots()
    names = {"both": "deploy and terminate", "deploy": "deploy", "terminate": "terminate"}
    for n, (column, name) in enumerate(names.items()):
        values = table[column]
        axes.plot(table.index, values, "o", color=SOURCES[n], markersize=7, label=name)
        axes.axhline(float(values.median()), color=SOURCES[n], linewidth=1)
    axes.axhline(TARGET, color="#b5483a", linewidth=1, linestyle="--")
    axes.set_xticks(list(table.index))
    axes.set_xlim(min(table.index) - 0.5, max(table.index) + 0.5)
    axes.set_ylim(0, max(TARGET, float(table.max().max())) * 1.15)
    axes.set_xlabel("repetition")
    axes.set_ylabel("ours / floor")
    axes.legend(frameon=False, loc="lower right", ncols=3)
    plain(axes)


def _plot_load(frames: Frames, about: Mapping[str, Any], figure: Figure) -> None:
    samples, rounds = frames.samples, frames.rounds
    zero = float(samples["at"].min())
    panels = figure.subplots(4, 1, sharex=True)
    cpu, memory, host_memory, count = panels
    for axes in panels:
        for _, row in rounds.iterrows():
            begun, ended = row["begun"] - zero, row["ended"] - zero
            axes.axvspan(begun, ended, color=COLOURS[str(row["side"])], alpha=0.1, linewidth=0)
        plain(axes)
    cpus = {host["hostname"]: host["vcpu"] for host in about["hosts"]} | {"": about["cpus"]}
    for n, ((kind, name), rows) in enumerate(samples.groupby(["kind", "name"])):
        label = {"process": "this process", "server": "Prefect server", "machine": "control machine"}.get(
            str(kind), f"{kind} {name}"
        )
        own = rows[rows["error"] == ""].sort_values("at")
        at = own["at"].to_numpy() - zero
        colour = SOURCES[n % len(SOURCES)]
        _plot_cpu(cpu, own, at, cpus.get(str(name), 1), label, colour)
        if own["memory_mib"].notna().any():
            of_host = kind in ("host", "machine")
            used = own["memory_mib"] / (1024 if of_host else 1)
            (host_memory if of_host else memory).plot(at, used, color=colour, label=label)
        if kind == "host" and own["machines"].notna().any():
            count.step(at, own["machines"], where="post", color=colour, label=label)
    for axes, unit in zip(panels, ("CPUs in use", "memory, MiB", "memory, GiB", "machines"), strict=True):
        axes.set_ylabel(unit)
        axes.set_ylim(bottom=0)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=10)
    count.set_xlabel("seconds")


def _plot_cpu(axes: Axes, own: pd.DataFrame, at: Any, cpus: int, label: str, colour: str) -> None:
    used, of = own["cpu_busy_s"].to_numpy(), own["cpu_total_s"].to_numpy()
    # The last sample comes early, at the end of the test: too short a time to divide by.
    whole = np.diff(at, prepend=at[:1] - 1) > 0.4
    at, used, of = at[whole], used[whole], of[whole]
    if len(used) < 2 or not np.isfinite(used).all():
        return
    # A host's own counters say how long it was: when its answer comes depends on how busy it is.
    passed_s = np.diff(of) / cpus if np.isfinite(of).all() else np.diff(at)
    rate = np.diff(used) / np.maximum(passed_s, 1e-3)
    axes.step(at, [rate[0], *rate], where="pre", color=colour, label=label, linewidth=1.2)
