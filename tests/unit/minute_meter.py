"""A meter that steps by the minute: what the calculation of bills is compared with. It knows no frames, no
windows of pandas, no item table of the program: what is due is written out here a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from vdc.tariff import Tariff

Key = tuple[str, str, str, Decimal]
"""Tenant, machine, what, price of a unit."""

ORDER = {"traffic": 0, "created": 1, "stored": 1, "resized": 2, "owner-changed": 2, "snapshot-taken": 2,
         "address-leased": 2, "held": 3, "stopped": 4, "lost": 4, "suspended": 5, "started": 6, "resumed": 7,
         "terminated": 8, "removed": 8}  # fmt: skip


@dataclass
class Machine:
    """What it is at one minute."""

    tenant: str = ""
    state: str = "stopped"
    there: bool = False
    made: bool = False
    ended: bool = False
    size: dict[str, int] = field(default_factory=dict)
    provider: str = ""
    price: Decimal | None = None
    image: str = ""

    def hear(self, row: Sequence[Any]) -> None:
        tenant, _, _, kind, _, vcpu, memory, disk, provider, price, snapshots, addresses, image, _ = row
        self.tenant, self.provider, self.price, self.image = tenant, provider, price, image or self.image
        told = {"vcpu": vcpu, "memory": memory, "disk": disk, "snapshots": snapshots, "addresses": addresses}
        self.size |= {name: value for name, value in told.items() if value is not None}
        self.there |= kind in ("created", "stored", "started", "resumed", "held")
        self.made |= kind in ("created", "stored", "started", "resumed")
        self.ended |= kind in ("terminated", "removed")
        if kind in ("created", "stopped", "lost"):
            self.state = "stopped"
        elif kind in ("started", "resumed", "stored"):
            self.state = "running"
        elif kind in ("suspended", "held"):
            self.state = kind

    def due(self, tariff: Tariff) -> Iterable[tuple[str, int, Decimal]]:
        """What it owes for a minute: what, how much of it, at which price."""
        if self.ended or not self.there:
            return
        runs = self.state == "running"
        if self.provider == "ec2":
            if runs and self.made:
                assert self.price is not None
                yield "EC2 instance", 1, self.price * tariff.ec2_margin
            return
        of = None if runs else getattr(tariff, self.state)

        def share(name: str) -> Decimal:
            return Decimal(1) if of is None else getattr(of, name)

        yield "vCPU", self.size["vcpu"], tariff.vcpu_hour * share("vcpu")
        yield "memory", self.size["memory"], tariff.memory_gib_hour * share("memory")
        yield "public address", self.size.get("addresses", 0), tariff.address_hour * share("addresses")
        if self.made:
            yield "disk", self.size["disk"], tariff.disk_gib_month * share("disk")
            snapshots = self.size.get("snapshots", 0)
            yield "snapshots", snapshots, tariff.snapshot_gib_month * share("snapshots")
            if self.image in tariff.licence_hour:
                yield "licence", 1, tariff.licence_hour[self.image] * share("licence")


def metered(rows: Iterable[Sequence[Any]], begin: datetime, tariffs: Sequence[Tariff]) -> Counter[Key]:
    """Unit minutes (of traffic: bytes) from `begin` on, of what has a price; `tariffs` has that of each."""
    used: Counter[Key] = Counter()
    by_machine: dict[str, list[Sequence[Any]]] = {}
    for row in rows:
        by_machine.setdefault(row[2], []).append(row)
    for name, mine in by_machine.items():
        # Equal in time and kind but not in what they tell: the larger is taken to be the later.
        mine = sorted(set(mine), key=lambda r: (r[4], ORDER[r[3]], r[0], r[2], r[3], *_told(r)))
        sent = {r[4]: (r[0], r[-1]) for r in mine if r[3] == "traffic"}
        machine, heard = Machine(), [r for r in mine if r[3] != "traffic"]
        while heard and heard[0][4] < begin:
            machine.hear(heard.pop(0))
        for minute, tariff in enumerate(tariffs):
            now = begin + timedelta(minutes=minute)
            while heard and heard[0][4] <= now:
                machine.hear(heard.pop(0))
            for what, quantity, price in machine.due(tariff):
                if price:
                    used[machine.tenant, name, what, price] += quantity
            if now in sent and tariff.traffic_gib:
                tenant, count = sent[now]
                used[tenant, name, "traffic", tariff.traffic_gib] += count
    return +used


def _told(row: Sequence[Any]) -> list[Any]:
    sizes = [*row[5:8], *row[10:12], row[13]]
    return [*(-1 if s is None else s for s in sizes), row[8], str(row[9] or ""), row[12]]
