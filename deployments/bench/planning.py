"""Placement, the pure function: many machines on many hosts."""

from __future__ import annotations

import time

from deployments.bench.figures import Figures
from vdc.placement import POLICIES, HostLoad, Shape, place

MACHINES, HOSTS = 10_000, 1_000
LIMIT_S = 1.0


def measure(repetitions: int, figures: Figures) -> None:
    shape = Shape(1, 1024, "shared", frozenset({"trunk"}))
    hosts = [
        HostLoad(
            host_id=str(n),
            name=f"h{n}",
            enabled=True,
            vcpu=32.0,
            memory_mib=65536.0,
            vms=n % 3,
            load_1m=n % 7 / 2,
            cpus=16,
            datastore_ids=frozenset({"shared"}),
            networks=frozenset({"trunk"}),
        )
        for n in range(HOSTS)
    ]
    for policy, rank in POLICIES.items():
        seconds = []
        for _ in range(repetitions):
            begun = time.monotonic()
            placed = place(MACHINES, shape, hosts, rank)
            seconds.append(time.monotonic() - begun)
            assert None not in placed.host_ids, "there is room for all"
        figures.add("placement", f"{MACHINES:,} machines on {HOSTS:,} hosts, {policy}", "s", seconds, LIMIT_S)
