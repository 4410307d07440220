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
) -> tuple[Any, ...]:
    """A row of an event frame; with an hourly price the machine is on EC2."""
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    provider, price = ("ec2", Decimal(hourly_price)) if hourly_price else ("local", None)
    return (TENANT, f"id-{machine}", machine, kind, at, vcpu, memory_mib, disk_mib, provider, price)


def frame(*rows: Sequence[Any]) -> pd.DataFrame:
    return event_frame(rows)
