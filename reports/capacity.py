"""Capacity: what hosts, datastores and networks carry, their over-commit, and when what runs out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pandas as pd
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from reports.html import plain
from reports.report import Report, Section
from reports.trend import ENOUGH_DAYS, trend
from reports.usage import read_events, spans
from vdc.access import check
from vdc.months import Window
from vdc.schema import Datastore, Host, Nic, Tenant, Vnet
from vdc.storage import rooms, summed
from vdc.usage import host_loads

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HISTORY_DAYS = 90
OUTLOOK = (
    f"By a straight line through what was held at the end of each of the last {HISTORY_DAYS} days; at least "
    f"{ENOUGH_DAYS} are needed. Earliest and latest: two standard errors of its slope. It knows nothing of "
    "what is planned."
)
OVER_COMMIT = "Over-commit: given to machines, by what there really is."
PROMISED = "Promised: what disks may grow to; used: what is taken now."
RESOURCES = {"vcpu": "vCPU", "memory_mib": "memory MiB", "disk_mib": "disk MiB"}


def hosts(session: Session) -> pd.DataFrame:
    """A row a host.

    `*_given` is what machines hold, `*_limit` what may be given, `*_over_commit` given by what there is.
    """
    memory = dict(session.execute(select(Host.id, Host.memory_mib)).all())
    return pd.DataFrame(
        [
            {
                "host": load.name,
                "enabled": load.enabled,
                "machines": load.vms,
                "vcpu_given": load.vcpu_used,
                "vcpu_limit": load.vcpu,
                "vcpu_over_commit": _share(load.vcpu_used, load.cpus),
                "memory_mib_given": load.memory_mib_used,
                "memory_mib_limit": load.memory_mib,
                "memory_over_commit": _share(load.memory_mib_used, memory[load.host_id]),
                "load_1m": load.load_1m,
            }
            for load in host_loads(session)
        ]
    )


def datastores(session: Session) -> pd.DataFrame:
    """A row a datastore. `promised_mib` is what disks may grow to; `used_mib` what is really taken."""
    stores = session.scalars(select(Datastore).order_by(Datastore.name)).all()
    parts = rooms(session, stores)
    rows = []
    for store in stores:
        seen = summed(parts[store.id])
        rows.append(
            {
                "datastore": store.name,
                "capacity_mib": seen["capacity_mib"],
                "used_mib": seen["used_mib"],
                "promised_mib": seen["allocated_mib"],
                "over_commit": _share(seen["allocated_mib"], seen["capacity_mib"] or 0),
                "observed_at": seen["observed_at"],
            }
        )
    return pd.DataFrame(rows)


def networks(session: Session) -> pd.DataFrame:
    """A row a network: addresses of its pool, and how many are leased."""
    leased = dict(session.execute(select(Nic.vnet_id, func.count()).group_by(Nic.vnet_id)).all())
    return pd.DataFrame(
        [
            {
                "network": vnet.name,
                "addresses": int(ip_address(vnet.last_address)) - int(ip_address(vnet.first_address)) + 1,
                "leased": leased.get(vnet.id, 0),
            }
            for vnet in session.scalars(select(Vnet).order_by(Vnet.name))
        ]
    )


def history(session: Session, now: datetime, days: int = HISTORY_DAYS) -> pd.DataFrame:
    """A row a day, at its end (today: now), since the first machine: what machines on our hosts held.

    Columns: `day`, `machines`, and those of RESOURCES. From usage events: what they say is what was held.
    """
    begin = (now - timedelta(days=days)).replace(hour=0, minute=0, second=0, microsecond=0)
    window = Window(begin, now)
    events = read_events(session, session.scalars(select(Tenant.id)).all(), window)
    held = spans(events, window)
    held = held[held["provider"] == "local"]
    at = [*(begin + timedelta(days=n) for n in range(1, days + 1)), now]
    rows = []
    for instant in at:
        there = held[(held["begin"] < instant) & (held["end"] >= instant)]
        rows.append(
            {"day": (instant - timedelta(microseconds=1)).date(), "machines": len(there)}
            | {name: int(there[name].clip(lower=0).sum()) for name in RESOURCES}
        )
    frame = pd.DataFrame(rows)
    used = frame["machines"].to_numpy().nonzero()[0]
    return frame.iloc[used[0] :].reset_index(drop=True) if len(used) else frame.head(0)


def outlook(
    history_: pd.DataFrame, hosts_: pd.DataFrame, datastores_: pd.DataFrame, today: datetime
) -> pd.DataFrame:
    """A row a resource: what is held, what there is, and when it runs out by the trend of the history."""
    enabled = hosts_[hosts_["enabled"]] if len(hosts_) else hosts_
    known = len(datastores_) > 0 and datastores_["capacity_mib"].notna().all()
    limits = {
        "vcpu": float(enabled["vcpu_limit"].sum()) if len(enabled) else None,
        "memory_mib": float(enabled["memory_mib_limit"].sum()) if len(enabled) else None,
        "disk_mib": float(datastores_["capacity_mib"].sum()) if known else None,
    }
    return pd.DataFrame(
        [
            _outlook(what, history_[name].tolist(), limits[name], today.date())
            for name, what in RESOURCES.items()
        ]
    )


def _outlook(what: str, held: list[int], limit: float | None, today: date) -> dict[str, object]:
    found = trend(held, limit, today)
    now = held[-1] if held else 0
    return {
        "resource": what,
        "held": now,
        "limit": limit,
        "percent": None if not limit else round(100 * now / limit, 1),
        "per_day": None if found.per_day is None else round(found.per_day, 3),
        "runs_out": found.runs_out,
        "earliest": found.earliest,
        "latest": found.latest,
        "days_of_history": found.days,
        "says": found.says,
    }


def capacity(session: Session, now: datetime) -> Report:
    """The report. `now` is in UTC."""
    check(session, "report.see")
    now = now.astimezone(UTC)
    of_hosts, of_stores, past = hosts(session), datastores(session), history(session, now)
    ahead = outlook(past, of_hosts, of_stores, now)
    words = [f"{row.resource}: {_percent(row.percent)}{row.says}." for row in ahead.itertuples()]
    return Report(
        "capacity",
        "Capacity",
        now,
        words,
        [
            Section("outlook", "When it runs out", ahead, "", OUTLOOK, _picture(past, ahead)),
            Section("hosts", "Hosts", of_hosts, "No host is enrolled.", OVER_COMMIT),
            Section("datastores", "Datastores", of_stores, "There is no datastore.", PROMISED),
            Section("networks", "Networks", networks(session), "There is no network."),
            Section("history", "History", past, "No machine was ever there."),
        ],
    )


def _percent(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:g}% held; "


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 3) if whole else None


def _picture(past: pd.DataFrame, ahead: pd.DataFrame) -> Callable[[Figure], object] | None:
    known = [float(limit) if limit == limit and limit else None for limit in ahead["limit"].astype(float)]
    lines = {
        what: 100 * past[name] / limit
        for (name, what), limit in zip(RESOURCES.items(), known, strict=True)
        if limit
    }
    return partial(_plot, past["day"], lines) if lines and len(past) > 1 else None


def _plot(days: pd.Series, lines: dict[str, pd.Series], figure: Figure) -> None:
    """Each resource as a share of its limit, a day each."""
    axes = figure.subplots()
    for what, percent in lines.items():
        axes.plot(days, percent, label=what, linewidth=1.8)
    axes.axhline(100, color="#b5533c", linewidth=1, linestyle="--")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of what may be held")
    axes.legend(frameon=False, ncols=3, loc="upper left")
    axes.tick_params(axis="x", labelrotation=30)
    plain(axes)
