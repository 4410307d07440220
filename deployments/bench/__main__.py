"""`python -m deployments.bench`: measure, print a table, write CSV; exit code 1 where a target is missed."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from deployments.bench import billing, migrating, planning, reading, real_lab, simulated
from deployments.bench.figures import Figures, describe_machine, say
from deployments.bench.house import House, house
from vdc.errors import VdcError

MEASURED = ("cli", "placement", "bills", "simulated", "lab", "fast")
"""What runs unless parts are named: those whose figures are in docs/benchmarks.md."""
PARTS = (*MEASURED, "migrate")


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="a part (repeatable); default: all but migrate"
    )
    parser.add_argument("--machines", type=int, default=40, help="on the lab (default: 40)")
    parser.add_argument("--repetitions", type=int, default=5, help="on the lab (default: 5)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="where results.csv goes")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)  # so that it cleans up as after Ctrl-C
    figures = Figures()
    try:
        with house() as home:
            _run(home, options, figures)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except VdcError as error:
        say(f"{type(error).__name__}: {error}")
        return 1
    figures.write_csv(options.out / "results.csv")
    print(describe_machine())
    print(figures.table())
    say(f"Written to {options.out / 'results.csv'}.")
    for row in figures.missed:
        say(f"MISS: {row.part}: {row.name} is {row.median:.3g} {row.unit}, at most {row.limit:g} was wanted.")
    return 1 if figures.missed else 0


def _run(home: House, options: argparse.Namespace, figures: Figures) -> None:
    wanted = options.only or MEASURED
    if "cli" in wanted:
        reading.measure(home.settings.home, 2 * options.repetitions, figures)
    if "placement" in wanted:
        planning.measure(options.repetitions, figures)
    if "bills" in wanted:
        billing.measure(home.settings.home, options.repetitions, figures)
    if "simulated" in wanted:
        simulated.measure(home, figures)
    if {"lab", "fast", "migrate"} & set(wanted):
        with real_lab.lab() as start:
            prepared = False
            for part, name in (("lab", real_lab.NORMAL), ("migrate", ""), ("fast", real_lab.FAST)):
                if part not in wanted:
                    continue
                running = start(part == "fast")
                if not prepared:
                    real_lab.prepare(home, running, options.machines)
                    prepared = True
                if part == "migrate":
                    migrating.measure(home, running, 2 * options.repetitions, figures)
                else:
                    real_lab.measure(home, name, options.machines, options.repetitions, figures)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
