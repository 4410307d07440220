"""How old snapshots may become.

A snapshot is due when its own time is over (`keep_days`), or when it is older than a limit: the site's
(setting `snapshot_days`), its tenant's or its machine's owner's (quota `snapshot_days`). The limits are those
of now. A day has 24 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from vdc.errors import Invalid, QuotaExceeded
from vdc.schema import Snapshot, Tenant, User, Vm

MOST_DAYS = 3650


@dataclass(frozen=True, slots=True)
class AgeLimit:
    """How many days a snapshot may be kept, and who says so; None: as long as nobody deletes it."""

    days: int | None
    why: str = ""

    def end(self, created_at: datetime) -> datetime | None:
        return None if self.days is None else created_at + timedelta(days=self.days)


def age_limit(session: Session, vm: Vm, site_days: int) -> AgeLimit:
    """The tightest of those for a machine's snapshots; `site_days` 0: the site has none."""
    tenant = session.get_one(Tenant, vm.tenant_id)
    limits = [AgeLimit(site_days, "setting snapshot_days")] if site_days else []
    if tenant.max_snapshot_days is not None:
        limits.append(AgeLimit(tenant.max_snapshot_days, f"quota snapshot_days of tenant {tenant.name}"))
    owner = session.get(User, vm.owner_id) if vm.owner_id else None
    if owner is not None and owner.max_snapshot_days is not None:
        limits.append(AgeLimit(owner.max_snapshot_days, f"quota snapshot_days of user {owner.name}"))
    return min(limits, key=lambda limit: limit.days or 0, default=AgeLimit(None))


def check_days(days: int | None, limit: AgeLimit, vm: Vm) -> None:
    """Raise Invalid, or QuotaExceeded, where a snapshot of `vm` cannot be kept for so many days."""
    if days is None:
        return
    if not 1 <= days <= MOST_DAYS:
        raise Invalid(f"{days} days are refused: a snapshot is kept for 1 to {MOST_DAYS} days, or always.")
    if limit.days is not None and days > limit.days:
        raise QuotaExceeded(
            f"A snapshot of machine {vm.name} may be kept for {limit.days} days ({limit.why}), and {days} "
            "are asked."
        )


def due_at(row: Snapshot, limit: AgeLimit) -> tuple[datetime | None, str]:
    """From when on a snapshot is to go, and why; None: never."""
    ends = [(row.expires_at, "it was to be kept until then"), (limit.end(row.created_at), limit.why)]
    known = [(end, why) for end, why in ends if end is not None]
    return min(known, default=(None, ""))
