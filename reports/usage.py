"""From events to what was used: pure functions on frames, and the one query that feeds them.

An event frame has a row an event (EVENTS); a span frame a row for each time in which a machine was of one
size and state; a charge frame a row for each time in which one thing was charged at one quantity. All times
are half-open and in UTC, to the microsecond; spans of a machine never overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.months import Window
from vdc.schema import UsageEvent, Vm
from vdc.tariff import ITEMS, Item

EVENTS = {
    "tenant_id": "str",
    "vm_id": "str",
    "machine": "str",
    "kind": "str",
    "at": "datetime64[us, UTC]",
    "vcpu": "int64",
    "memory_mib": "int64",
    "disk_mib": "int64",
    "provider": "str",
    "hourly_price": "str",
}
"""Columns of an event frame; `hourly_price` is a decimal number as text, empty on hosts of ours."""

CHARGES = ["tenant_id", "vm_id", "machine", "what", "begin", "end", "quantity", "hourly_price"]

_RANK = {"created": 0, "stopped": 2, "suspended": 3, "started": 4, "resumed": 5, "terminated": 6}
_OTHER = 1
"""Order of what happened at the same instant. An event of another kind tells a new size, or nothing."""

_RUNNING = {"created": 0.0, "stopped": 0.0, "suspended": 0.0, "started": 1.0, "resumed": 1.0}


def event_frame(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Rows with the values of EVENTS, in that order, as a frame."""
    frame = pd.DataFrame(list(rows), columns=list(EVENTS))
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    frame["hourly_price"] = [format(p, "f") if pd.notna(p) else "" for p in frame["hourly_price"]]
    return frame.astype(EVENTS)


def read_events(session: Session, tenant_ids: Sequence[str], window: Window) -> pd.DataFrame:
    """Events that bear on the window: from each machine's first, but not of machines gone before it."""
    gone = select(UsageEvent.vm_id).where(UsageEvent.kind == "terminated", UsageEvent.at <= window.begin)
    query = (
        select(
            UsageEvent.tenant_id,
            UsageEvent.vm_id,
            Vm.name,
            UsageEvent.kind,
            UsageEvent.at,
            UsageEvent.vcpu,
            UsageEvent.memory_mib,
            UsageEvent.disk_mib,
            UsageEvent.provider,
            UsageEvent.hourly_price,
        )
        .join(Vm, Vm.id == UsageEvent.vm_id)
        .where(UsageEvent.tenant_id.in_(tenant_ids), UsageEvent.at < window.end)
        .where(UsageEvent.vm_id.not_in(gone))
    )
    return event_frame(tuple(row) for row in session.execute(query))


def spans(events: pd.DataFrame, window: Window) -> pd.DataFrame:
    """What each machine was, and when, within the window; one that is still there is so to its end.

    Neither the order of the events nor how often each is told changes the answer.
    """
    told = events.drop_duplicates()
    told = told.assign(rank=told["kind"].map(_RANK).fillna(_OTHER))
    # By every column: what is equal in all that counts may not depend on the order in which it came.
    told = told.sort_values(["vm_id", "at", "rank", *(c for c in EVENTS if c not in ("vm_id", "at"))])
    told = told.reset_index(drop=True)
    of_vm = told["vm_id"]
    begun = told["kind"].isin(["created", "started", "resumed"]).groupby(of_vm).cummax()
    ended = (told["kind"] == "terminated").groupby(of_vm).cummax()
    told["running"] = told["kind"].map(_RUNNING).groupby(of_vm).ffill().fillna(0.0) > 0
    told["instances"] = 1
    told["begin"] = told["at"].clip(lower=window.begin)
    following = told.groupby("vm_id")["at"].shift(-1)
    told["end"] = following.fillna(window.end).clip(upper=window.end)
    kept = told[begun & ~ended & (told["begin"] < told["end"])]
    return kept.drop(columns=["kind", "at", "rank"]).reset_index(drop=True)


def charges(of: pd.DataFrame) -> pd.DataFrame:
    """What is charged for spans: a row for each item, machine and unbroken time of one quantity."""
    of = of.assign(payer=of.groupby(["vm_id", "tenant_id", "hourly_price"], sort=False).ngroup())
    frames = [frame for item in ITEMS if len(frame := _charged(of, item))]
    if not frames:
        return of.head(0).assign(what="", quantity=0)[CHARGES]
    # Machines by name; of each its items in the tariff's order, and each of these by time.
    return pd.concat(frames, ignore_index=True).sort_values(
        ["tenant_id", "machine", "vm_id"], kind="stable", ignore_index=True
    )


def _charged(of: pd.DataFrame, item: Item) -> pd.DataFrame:
    due = of[
        (of["provider"] == item.provider) & (of["running"] | item.while_stopped) & (of[item.quantity] > 0)
    ]
    payer, quantity, begin, end = (due[c].to_numpy() for c in ("payer", item.quantity, "begin", "end"))
    goes_on = (payer[1:] == payer[:-1]) & (quantity[1:] == quantity[:-1]) & (begin[1:] == end[:-1])
    # Of a run of spans that go on from each other, the beginning of the first and the end of the last.
    first, last = (np.ones(len(due), bool) for _ in range(2))
    first[1:], last[:-1] = ~goes_on, ~goes_on
    runs = due[first].assign(what=item.what, quantity=quantity[first], end=due["end"].array[last])
    return runs[CHARGES]


def hours(of: pd.DataFrame) -> pd.Series:
    """Length of each row in hours, for pictures and summaries; a bill counts microseconds."""
    return (of["end"] - of["begin"]) / pd.Timedelta(hours=1)


def summary(of: pd.DataFrame) -> pd.DataFrame:
    """Of charges, a row a tenant: machines, and hours of each item in its unit (`vCPU`, GiB, instances)."""
    used = hours(of) * of["quantity"] / of["what"].map({i.what: i.divisor for i in ITEMS}).astype(float)
    by_what = used.groupby([of["tenant_id"], of["what"]]).sum().unstack(fill_value=0.0)
    by_what = by_what.reindex(columns=[i.what for i in ITEMS], fill_value=0.0)
    by_what.insert(0, "machines", of.groupby("tenant_id")["vm_id"].nunique())
    return by_what
