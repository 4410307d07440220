"""From events to what was used: pure functions on frames.

An event frame has a row an event (EVENTS); a span frame a row for each time in which a machine was of one
size, state and owner; a charge frame a row for each time in which one thing was charged at one quantity and
one share of its price. All times are half-open and in UTC, to the microsecond; spans of a machine never
overlap.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from reports.levels import UNTOLD, Flags, Table, levels, table
from vdc.months import Window, microseconds
from vdc.tariff import ITEMS, STATES, WHATS, Item, Tariff

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

EVENTS = {
    "tenant_id": "category",
    "vm_id": "category",
    "machine": "category",
    "kind": "category",
    "at": "datetime64[us, UTC]",
    "vcpu": "int64",
    "memory_mib": "int64",
    "disk_mib": "int64",
    "provider": "category",
    "hourly_price": "category",
    "snapshot_mib": "int64",
    "addresses": "int64",
    "image": "category",
    "bytes": "int64",
}
"""Columns of an event frame. `hourly_price` is a decimal number as text, empty on hosts of ours. A size that
is not told is UNTOLD, a text empty. `image` is that of which the machine was made, `addresses` counts public
ones, `bytes` is what was sent (of traffic alone)."""

_OTHERWISE = {"snapshot_mib": UNTOLD, "addresses": UNTOLD, "image": "", "bytes": 0}

CHARGES = [
    "tenant_id",
    "vm_id",
    "machine",
    "what",
    "begin",
    "end",
    "quantity",
    "hourly_price",
    "image",
    "share",
]


def event_frame(rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Rows with the values of EVENTS, in that order, as a frame; None for what an event does not tell.

    The last four may be left out of all of them.
    """
    told = list(rows)
    names = list(EVENTS)[: len(told[0]) if told else None]
    frame = pd.DataFrame(told, columns=names)
    for name, value in _OTHERWISE.items():
        if name not in frame:
            frame[name] = value
    for name, kind in EVENTS.items():
        if kind == "int64":
            frame[name] = frame[name].fillna(_OTHERWISE.get(name, UNTOLD))
    frame["image"] = frame["image"].fillna("")
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    frame["hourly_price"] = [format(p, "f") if pd.notna(p) else "" for p in frame["hourly_price"]]
    return frame.astype(EVENTS)


def read_events(session: Session, tenant_ids: Sequence[str], window: Window) -> pd.DataFrame:
    """Events that bear on the window: from each machine's first, but not of machines gone before it.

    Of a machine that was another tenant's for a time, that one's too: they tell since when it is not. A kept
    disk is as a machine that is off: `vm_id` is that of the disk, `machine` is `disk NAME`.
    """
    # A history in a file is billed without a database, and should not wait for its library.
    from reports.event_rows import event_rows

    return event_frame(event_rows(session, tenant_ids, window))


def spans(events: pd.DataFrame, window: Window) -> pd.DataFrame:
    """What each machine was, and when, within the window; one that is still there is so to its end.

    Columns as of reports.levels.levels, and `running`.
    """
    of = cut(levels(events), window).frame()
    return of.assign(running=of["state"] == STATES.index("running"))


def cut(of: Table, window: Window) -> Table:
    """Levels as spans: what lies in the window, where there was something."""
    begins = np.maximum(of["begin"], microseconds(window.begin))
    ends = np.minimum(of["end"], microseconds(window.end))
    kept = of["there"] & (begins < ends)
    return of.take(kept, begin=begins[kept], end=ends[kept])


def charges(of: pd.DataFrame, tariff: Tariff | None = None) -> pd.DataFrame:
    """What is charged for spans: a row for each item, machine and unbroken time of one quantity and share.

    `share` is what is paid of the price, as text. What a tariff (without one: the list prices') gives away is
    left out.
    """
    tariff, given = tariff or Tariff(), table(of)
    frames = []
    for item in ITEMS:
        due, shares = charged(given, item, tariff)
        frame = due.frame().assign(share=[shares[n] for n in due["share"]])
        frame["what"] = pd.Categorical([item.what] * len(frame), categories=WHATS)
        frames.append(frame[CHARGES])
    made = pd.concat(frames, ignore_index=True)
    # Machines by name; of each its items in the tariff's order, and each of these by time.
    by = [made[name].cat.codes for name in ("vm_id", "machine", "tenant_id")]
    return made.take(np.lexsort(by)).reset_index(drop=True)


def charged(of: Table, item: Item, tariff: Tariff) -> tuple[Table, list[str]]:
    """Of spans what one item charges, by machine and time; `share` is a position in the list returned."""
    shares = item.shares(tariff)
    texts = list(dict.fromkeys(format(share, "f") for share in shares.values()))
    share_of = np.array([texts.index(format(shares[state], "f")) for state in STATES])
    free = np.array([shares[state] == 0 for state in STATES])
    due: Flags = (of[item.quantity] > 0) & (of["provider"] == of.position("provider", item.provider))
    due &= ~free[of["state"]]
    if not item.reserved:
        due &= of["made"]
    if item.price == "licence_hour":
        due &= np.isin(of["image"], [of.position("image", image) for image in tariff.licence_hour])
    rows = np.flatnonzero(due)
    payer = ("vm_id", "tenant_id", "hourly_price", *(["image"] if item.price == "licence_hour" else []))
    quantity, begin, end = (of[name][rows] for name in (item.quantity, "begin", "end"))
    share = share_of[of["state"][rows]]
    goes_on = begin[1:] == end[:-1]
    for values in (*(of[name][rows] for name in payer), quantity, share):
        goes_on &= values[1:] == values[:-1]
    # Of a run of spans that go on from each other, the beginning of the first and the end of the last.
    first, last = (np.ones(len(rows), bool) for _ in range(2))
    first[1:], last[:-1] = ~goes_on, ~goes_on
    kept = {name: of[name][rows[first]] for name in CHARGES if name in of.columns}
    kept |= {"end": end[last], "quantity": quantity[first], "share": share[first]}
    return Table(kept, of.texts), texts


def hours(of: pd.DataFrame) -> pd.Series:
    """Length of each row in hours, for pictures and summaries; a bill counts microseconds."""
    return (of["end"] - of["begin"]) / pd.Timedelta(hours=1)


def summary(of: pd.DataFrame) -> pd.DataFrame:
    """Of charges, a row a tenant: machines, and hours of each item in its unit (`vCPU`, GiB, instances)."""
    used = hours(of) * of["quantity"] / of["what"].map({i.what: i.divisor for i in ITEMS}).astype(float)
    by_what = used.groupby([of["tenant_id"], of["what"]], observed=True).sum().unstack(fill_value=0.0)
    by_what = by_what.reindex(columns=[i.what for i in ITEMS], fill_value=0.0)
    by_what.insert(0, "machines", of.groupby("tenant_id", observed=True)["vm_id"].nunique())
    return by_what
