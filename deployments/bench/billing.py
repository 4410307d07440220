"""How long a month's bills take, and the same sum in DuckDB: of the same events, to the same cent.

Each turn is a process of its own, so that its memory is its own; what it is given is a file in Parquet, and
what is timed begins with reading that and ends with each tenant's total (all lines priced and in order).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deployments.bench.command import python
from deployments.bench.figures import Figures
from vdc.errors import OperationFailed

PART = "bills"
LIMIT_S = 5.0
LIMIT_MIB = 1024.0
LIMIT_RATIO = 3.0
LINEAR = 1.3
"""Ten times as many events may take thirteen times as long."""
EVENTS = 1_000_000
MACHINES = 10_000
TENANTS = 200
MONTH = "2026-10"
ZONE = "Europe/Madrid"
KINDS = ("created", "started", "stopped", "resized", "snapshot-taken")
TARIFF = {
    "vcpu_hour": "0.0080",
    "memory_gib_hour": "0.0040",
    "disk_gib_month": "0.0500",
    "snapshot": "0.0300",
}


def measure(directory: Path, repetitions: int, figures: Figures) -> None:
    """`directory` gets the events. Raises OperationFailed where the two differ."""
    wall = {}
    for events in (EVENTS // 10, EVENTS):
        file = directory / f"events-{events}.parquet"
        write_events(file, events, MACHINES * events // EVENTS)
        ours, duck = [], []
        for _ in range(repetitions):
            ours.append(_turn("ours", file))
            duck.append(_turn("duckdb", file))
            if ours[-1]["totals"] != duck[-1]["totals"]:
                raise OperationFailed(f"The bills of {events:,} events differ from DuckDB's.", "")
        told = f"{events:,} events"
        last = events == EVENTS
        walls = [turn["wall_s"] for turn in ours]
        wall[events] = figures.add(
            PART, f"the month's bills, {told}", "s", walls, LIMIT_S if last else None
        ).median
        figures.add(PART, f"their CPU, {told}", "s", [turn["cpu_s"] for turn in ours])
        memory = [turn["memory_mib"] for turn in ours]
        figures.add(PART, f"their memory, {told}", "MiB", memory, LIMIT_MIB if last else None)
        figures.add(PART, f"their lines, {told}", "lines", [float(turn["lines"]) for turn in ours])
        theirs = [turn["wall_s"] for turn in duck]
        figures.add(PART, f"the same sum in DuckDB, {told}", "s", theirs)
        ratios = [a / b for a, b in zip(walls, theirs, strict=True)]
        figures.add(PART, f"ours / DuckDB, {told}", "", ratios, LIMIT_RATIO if last else None)
    figures.add(PART, "time of ten times the events / ten times the time", "",
                [wall[EVENTS] / wall[EVENTS // 10] / 10], LINEAR)  # fmt: skip


def _turn(side: str, file: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(python("-m", "deployments.bench.billing", side, str(file)).stdout)
    return told


def write_events(file: Path, events: int, machines: int, seed: int = 1) -> None:
    """A month of machines that were made before it or in it: started, stopped, resized, with snapshots."""
    dice = np.random.default_rng(seed)
    each = events // machines
    vm = np.repeat(np.arange(machines), each)
    begin = int(datetime(2026, 9, 25, tzinfo=UTC).timestamp())
    # Whole minutes over 40 days: the month, some days before and some after it.
    at = begin + 60 * np.sort(dice.integers(0, 40 * 1440, (machines, each)), axis=1).ravel()
    kind = dice.choice([1, 2, 3, 4], events, p=[0.3, 0.3, 0.2, 0.2])
    kind[::each] = 0
    sizes = {
        "vcpu": dice.choice([1, 2, 4, 8], events),
        "memory_mib": dice.choice([512, 1024, 2048, 4096], events),
        "disk_mib": np.repeat(dice.choice([10240, 20480, 102400], machines), each),
        "snapshot_mib": np.where(kind == 4, dice.integers(0, 20000, events), np.where(kind == 0, 0, -1)),
    }
    # A size changes when it is resized, and not else.
    resized = np.maximum.accumulate(np.where((kind == 3) | (kind == 0), np.arange(events), 0))
    sizes["vcpu"], sizes["memory_mib"] = sizes["vcpu"][resized], sizes["memory_mib"][resized]
    frame = pd.DataFrame(
        {
            "tenant_id": pd.Categorical.from_codes(
                vm % TENANTS, categories=[f"tenant-{n:03}" for n in range(TENANTS)]
            ),
            "vm_id": pd.Categorical.from_codes(vm, categories=[f"vm-{n:06}" for n in range(machines)]),
            "kind": pd.Categorical.from_codes(kind, categories=list(KINDS)),
            "at": pd.to_datetime(at, unit="s", utc=True).astype("datetime64[us, UTC]"),
            **sizes,
        }
    )
    order = dice.permutation(events)
    frame.iloc[order].to_parquet(file, index=False)


def ours(file: Path) -> dict[str, Any]:
    """Read, price, sum: {tenant: cents}, and how many lines there are."""
    from decimal import Decimal

    from reports.bill import accounts
    from reports.usage import EVENTS
    from vdc.billed import Billed
    from vdc.months import Month
    from vdc.tariff import Tariff
    from vdc.tariff_book import TariffBook

    events = pd.read_parquet(file)
    local, nothing = (
        pd.Categorical.from_codes(np.zeros(len(events), np.int8), [text]) for text in ("local", "")
    )
    events = events.assign(
        machine=events["vm_id"],
        provider=local,
        hourly_price=nothing,
        image=nothing,
        addresses=np.int64(-1),
        bytes=np.int64(0),
    )[list(EVENTS)]
    names = events["tenant_id"].cat.categories
    tariff = Tariff(
        Decimal(TARIFF["vcpu_hour"]),
        Decimal(TARIFF["memory_gib_hour"]),
        Decimal(TARIFF["disk_gib_month"]),
        snapshot_gib_month=Decimal(TARIFF["snapshot"]),
    )
    tenants = [Billed(name, name, ZONE) for name in names]
    (account,) = accounts(events, tenants, Month.parse(MONTH), TariffBook.always(tariff))
    totals = account.lines.groupby("tenant_id", observed=True)["cents"].sum()
    return {"totals": {str(k): int(v) for k, v in totals.items()}, "lines": len(account.lines)}


SQL = """
WITH told AS (
  SELECT *, epoch_us("at") AS us,
    CASE kind WHEN 'created' THEN 1 WHEN 'stopped' THEN 4 WHEN 'started' THEN 6 ELSE 2 END AS rank,
    CASE kind WHEN 'created' THEN 0 WHEN 'stopped' THEN 0 WHEN 'started' THEN 1 END AS becomes
  FROM read_parquet('{file}')
), levels AS (
  SELECT tenant_id, vm_id, us, vcpu, memory_mib, disk_mib,
    last_value(nullif(snapshot_mib, -1) IGNORE NULLS) OVER w AS snapshot_mib,
    last_value(becomes IGNORE NULLS) OVER w AS running,
    coalesce(lead(us) OVER (PARTITION BY vm_id ORDER BY us, rank, kind, vcpu, memory_mib, snapshot_mib),
             {end}) AS nxt
  FROM told
  WINDOW w AS (PARTITION BY vm_id ORDER BY us, rank, kind, vcpu, memory_mib, snapshot_mib
               ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
), spans AS (
  SELECT *, greatest(us, {begin}) AS b, least(nxt, {end}) AS e FROM levels
  WHERE greatest(us, {begin}) < least(nxt, {end})
), due AS (
  SELECT tenant_id, vm_id, 'vCPU' AS what, b, e, vcpu AS q FROM spans WHERE running = 1
  UNION ALL SELECT tenant_id, vm_id, 'memory', b, e, memory_mib FROM spans WHERE running = 1
  UNION ALL SELECT tenant_id, vm_id, 'disk', b, e, disk_mib FROM spans
  UNION ALL SELECT tenant_id, vm_id, 'snapshots', b, e, snapshot_mib FROM spans WHERE snapshot_mib > 0
), marked AS (
  SELECT *, CASE WHEN lag(e) OVER v = b AND lag(q) OVER v = q THEN 0 ELSE 1 END AS fresh
  FROM due WINDOW v AS (PARTITION BY vm_id, what ORDER BY b)
), numbered AS (
  SELECT *, sum(fresh) OVER (PARTITION BY vm_id, what ORDER BY b) AS run FROM marked
), lines AS (
  SELECT tenant_id, what, min(b) AS b, max(e) AS e, any_value(q) AS q FROM numbered
  GROUP BY tenant_id, vm_id, what, run
), parts AS (
  SELECT tenant_id, q::HUGEINT * (e - b) * CASE what WHEN 'vCPU' THEN 80 WHEN 'memory' THEN 40
      WHEN 'disk' THEN 500 ELSE 300 END AS n,
    CASE what WHEN 'vCPU' THEN 1 WHEN 'memory' THEN 1024 ELSE 1024 * 745 END::HUGEINT * 3600000000 * 100 AS d
  FROM lines
)
SELECT tenant_id, sum((2 * n + d) // (2 * d))::BIGINT, count(*) FROM parts GROUP BY tenant_id ORDER BY 1
"""


def duckdb(file: Path) -> dict[str, Any]:
    """The same sum, in whole numbers, half a cent up."""
    import duckdb as engine

    from vdc.months import Month, microseconds

    window = Month.parse(MONTH).window(ZONE)
    query = SQL.format(file=file, begin=microseconds(window.begin), end=microseconds(window.end))
    rows = engine.connect().execute(query).fetchall()
    return {"totals": {str(name): cents for name, cents, _ in rows}, "lines": sum(row[2] for row in rows)}


def main(arguments: Sequence[str]) -> None:
    side, file = arguments
    import resource

    work = {"ours": ours, "duckdb": duckdb}[side]
    begun, cpu_begun = time.perf_counter(), time.process_time()
    told = work(Path(file))
    wall_s, cpu_s = time.perf_counter() - begun, time.process_time() - cpu_begun
    memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told | {"wall_s": wall_s, "cpu_s": cpu_s, "memory_mib": memory_mib}))


if __name__ == "__main__":
    main(sys.argv[1:])
