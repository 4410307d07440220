"""What was measured: medians, the limits they are held to, as a table and as CSV."""

from __future__ import annotations

import csv
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from vdc.schema import utc_now

HEADING = ("part", "figure", "unit", "median", "min", "max", "n", "target", "verdict")


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity, measured several times. `limit`: what its median may be at most; None: no target."""

    part: str
    name: str
    unit: str
    values: tuple[float, ...]
    limit: float | None = None

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def verdict(self) -> str:
        if self.limit is None:
            return ""
        return "PASS" if self.median <= self.limit else "MISS"


@dataclass
class Figures:
    """All figures of a run, in order."""

    rows: list[Figure] = field(default_factory=list)

    def add(
        self, part: str, name: str, unit: str, values: Sequence[float], limit: float | None = None
    ) -> Figure:
        figure = Figure(part, name, unit, tuple(values), limit)
        self.rows.append(figure)
        limited = f", at most {limit:g}: {figure.verdict}" if limit is not None else ""
        say(f"{part}: {name} {figure.median:.3g} {unit}{limited}")
        return figure

    @property
    def missed(self) -> list[Figure]:
        return [row for row in self.rows if row.verdict == "MISS"]

    def table(self) -> str:
        lines = [HEADING, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADING))]
        return "\n".join(
            "  ".join(
                text.ljust(width) if column in (0, 1, 2, 8) else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        )

    def write_csv(self, file: Path) -> None:
        """One line a figure, each with the machine and the day: files of several runs can be put together."""
        file.parent.mkdir(parents=True, exist_ok=True)
        machine, now = describe_machine(), datetime.now(UTC).isoformat(timespec="seconds")
        with file.open("w", newline="") as output:
            writer = csv.writer(output)
            writer.writerow(
                [
                    "part",
                    "figure",
                    "unit",
                    "median",
                    "min",
                    "max",
                    "n",
                    "target",
                    "verdict",
                    "date",
                    "machine",
                ]
            )
            for row in self.rows:
                writer.writerow([*_cells(row), now, machine])


def _cells(row: Figure) -> tuple[str, ...]:
    numbers = (row.median, min(row.values), max(row.values))
    return (
        row.part,
        row.name,
        row.unit,
        *(f"{number:.4g}" for number in numbers),
        str(len(row.values)),
        "" if row.limit is None else f"<= {row.limit:g}",
        row.verdict,
    )


def describe_machine() -> str:
    """CPU, cores, memory, kernel: what one has to know to compare two runs."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory_gib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} CPUs, {memory_gib:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load {load:.1f} at the end"
    )


def say(text: str) -> None:
    """Progress, on stderr."""
    print(f"{utc_now():%H:%M:%S} {text}", file=sys.stderr, flush=True)
