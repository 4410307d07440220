"""Histories of machines for tests of usage and bills."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from reports.usage import event_frame

TENANT = "t-acme"


def event(
    machine: str,
    kind: str,
    at: datetime | str,
    *,
    vcpu: int = 1,
    memory_mib: int = 1024,
    disk_mib: int = 10240,
    hourly_price: str = "",
    snapshot_mib: int | None = None,
    addresses: int | None = None,
    image: str = "",
    sent: int = 0,
    tenant: str = TENANT,
) -> tuple[Any, ...]:
    """A row of an event frame; with an hourly price the machine is on EC2."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    provider, price = ("ec2", Decimal(hourly_price)) if hourly_price else ("local", None)
    size = (vcpu, memory_mib, disk_mib, provider, price, snapshot_mib, addresses, image, sent)
    return (tenant, f"id-{machine}", machine, kind, at, *size)


def frame(*rows: Sequence[Any]) -> pd.DataFrame:
    return event_frame(rows)
