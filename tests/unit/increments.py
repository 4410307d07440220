"""What a process of its own does to the inventory: imports little, as it is started anew."""

from __future__ import annotations

from sqlalchemy import select

from vdc.inventory import write_session
from vdc.schema import Tenant


def increment(url: str, times: int) -> None:
    for _ in range(times):
        with write_session(url) as session:
            tenant = session.scalars(select(Tenant).where(Tenant.name == "default")).one()
            tenant.max_vms = (tenant.max_vms or 0) + 1
