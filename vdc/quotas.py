"""Quotas: what whoever has one may use, what is in use, and changing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import visible
from vdc.errors import Invalid, QuotaExceeded
from vdc.names import find
from vdc.operations import Opening
from vdc.schema import Tenant, User
from vdc.usage import QUOTA_WORDS, VM_WORDS, Use, tenant_use, user_use

DAYS = "snapshot_days"
NAMES = (*(name for name, _ in QUOTA_WORDS), DAYS, *(f"vm_{name}" for name, _ in VM_WORDS))
"""What can be limited: `vms`, `vcpu`, ..., the age of snapshots, and of one machine `vm_vcpu`, ..."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A tenant or a user, with what is in use."""

    kind: str
    row: Any
    use: Use

    def limit(self, name: str) -> int | None:
        limit: int | None = getattr(self.row, column(name))
        return limit


def column(name: str) -> str:
    """`vms` -> `max_vms`, `vm_vcpu` -> `vm_max_vcpu`."""
    return f"vm_max_{name.removeprefix('vm_')}" if name.startswith("vm_") else f"max_{name}"


def holders(session: Session, *, tenant: str = "", user: str = "") -> list[Holder]:
    """The one that was named; else all tenants, and users with a limit, that who asks may see."""
    if user:
        row = find(session, User, "user", user)
        return [Holder("user", row, user_use(session, row.id))]
    if tenant:
        of = find(session, Tenant, "tenant", tenant)
        return [Holder("tenant", of, tenant_use(session, of.id))]
    tenants = session.scalars(select(Tenant).where(visible(session, Tenant)).order_by(Tenant.name))
    users = session.scalars(select(User).where(visible(session, User)).order_by(User.name))
    limited = [u for u in users if any(getattr(u, column(name)) is not None for name in NAMES)]
    found = [Holder("tenant", row, tenant_use(session, row.id)) for row in tenants]
    return found + [Holder("user", row, user_use(session, row.id)) for row in limited]


def rows(holder: Holder) -> list[dict[str, Any]]:
    """A row a limit, with the keys of `vdc quota show`; `used` is null of what is of one machine."""
    words = [(name, word) for name, word in QUOTA_WORDS]
    words.append((DAYS, "days that a snapshot is kept"))
    words += [(f"vm_{name}", f"{word} of one machine") for name, word in VM_WORDS]
    seen = []
    for name, word in words:
        limit = holder.limit(name)
        used = None if name == DAYS or name.startswith("vm_") else getattr(holder.use, name)
        left = None if limit is None or used is None else limit - used
        seen.append({"name": name, "what": word, "used": used, "limit": limit, "left": left})
    return seen


def set_quota(
    session: Session,
    limits: Mapping[str, int | None],
    *,
    tenant: str = "",
    user: str = "",
    below_use: bool = False,
    actor: str,
) -> list[str]:
    """Change these limits (None: none from now on); says what changed.

    Raises QuotaExceeded for one below what is in use, unless `below_use`: then nothing more is given out
    until there is room again, and what is there stays. Invalid for one that is none.
    """
    if bool(tenant) == bool(user):
        raise Invalid("Say whose quota: either a tenant's or a user's.")
    (holder,) = holders(session, tenant=tenant, user=user)
    changes, spec = [], {}
    for name, limit in limits.items():
        if name not in NAMES:
            raise Invalid(f"{name!r} cannot be limited: {', '.join(NAMES)} can.")
        if limit is not None and limit < 0:
            raise Invalid(f"Quota {name} {limit} is refused: it cannot be negative.")
        if name == DAYS and limit == 0:
            raise Invalid(f"Quota {name} 0 is refused: who may have no snapshots has the quota snapshots=0.")
        old = holder.limit(name)
        if old != limit:
            changes.append(f"{name} {_said(old)} -> {_said(limit)}")
            spec[name] = limit
    opening = Opening("quota", holder.kind, holder.row.id, holder.row.name, spec)
    claim = operations.open_one(session, opening, actor=actor)
    for name, limit in spec.items():
        used = getattr(holder.use, name, 0)
        if limit is not None and limit < used and not below_use:
            raise QuotaExceeded(
                f"Quota of {holder.kind} {holder.row.name}: {limit} {name} is below the {used} in use "
                "(--below-use sets it all the same)."
            )
        setattr(holder.row, column(name), limit)
    operations.close(session, claim)
    return changes


def _said(limit: int | None) -> str:
    return "none" if limit is None else str(limit)
