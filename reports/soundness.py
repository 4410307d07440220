"""Whether what machines are charged for is what they were: a check of usage events against the inventory."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
from sqlalchemy import select
from sqlalchemy.orm import Session

from reports.usage import charges, read_events, spans
from vdc.months import Window
from vdc.schema import Tenant, Vm, Volume
from vdc.states import CHARGED, HOLDING, VmState


@dataclass(frozen=True, slots=True)
class Life:
    """A machine of the inventory, or a disk that may be kept: when it was, and whether it runs by the bill.

    None: that passes, or there is nothing to run.
    """

    vm_id: str
    name: str
    begin: datetime
    end: datetime | None
    runs: bool | None


def read_lives(session: Session, window: Window) -> list[Life]:
    """Machines and disks of their own that were there in the window."""
    passing = (VmState.DEPLOYING, VmState.TERMINATING, VmState.MISSING)
    rows = session.scalars(select(Vm).where(Vm.created_at < window.end).order_by(Vm.name))
    volumes = session.scalars(select(Volume).where(Volume.created_at < window.end).order_by(Volume.name))
    disks = [
        Life(one.id, f"disk {one.name}", one.created_at, one.ended_at, None)
        for one in volumes
        if one.ended_at is None or one.ended_at > window.begin
    ]
    return disks + [
        Life(
            vm.id,
            vm.name,
            vm.created_at,
            vm.ended_at,
            None if vm.state in passing else vm.state in CHARGED,
        )
        for vm in rows
        if vm.state in HOLDING or (vm.ended_at and vm.ended_at > window.begin)
    ]


def unsound(events: pd.DataFrame, lives: list[Life], window: Window) -> list[str]:
    """What is wrong with the bill of each machine; empty: nothing. Pure.

    Each item is charged for no longer than the machine was there, and a machine is charged as running at the
    window's end exactly if it runs.
    """
    of_vm = spans(events, window)
    charged = charges(of_vm)
    longs: dict[str, dict[str, pd.Timedelta]] = {}
    for vm_id, what, begin, end in charged[["vm_id", "what", "begin", "end"]].itertuples(index=False):
        of = longs.setdefault(vm_id, {})
        of[what] = of.get(what, pd.Timedelta(0)) + (end - begin)
    last = of_vm[of_vm["end"] == window.end].set_index("vm_id")["running"].to_dict()
    found = []
    for life in lives:
        begin, end = max(life.begin, window.begin), min(life.end or window.end, window.end)
        wall = max(end - begin, pd.Timedelta(0))
        found += [
            f"vm/{life.name} is charged {what} for longer than it was there"
            for what, long in longs.get(life.vm_id, {}).items()
            if long > wall
        ]
        runs = bool(last.get(life.vm_id, False))
        if life.end is not None and life.end <= window.end and life.vm_id in last:
            found.append(f"vm/{life.name} has ended and is charged for ever")
        elif life.runs is not None and life.runs != runs:
            found.append(f"vm/{life.name} {'runs' if life.runs else 'is off'}, and its bill says otherwise")
    return found


def read_unsound(session: Session, window: Window) -> list[str]:
    """As `unsound`, of all machines of all tenants."""
    tenants = list(session.scalars(select(Tenant.id)))
    return unsound(read_events(session, tenants, window), read_lives(session, window), window)
