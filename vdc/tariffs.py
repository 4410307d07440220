"""Tariffs that are kept: each version is written once and never changed, so that a bill can be made again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.errors import Conflict, InvalidState, NotFound
from vdc.months import Month
from vdc.names import find
from vdc.operations import Opening
from vdc.schema import Bill, TariffVersion, Tenant, new_id, utc_now
from vdc.tariff import Tariff
from vdc.tariff_book import TariffBook
from vdc.tariff_file import Version, kept, version_of


@dataclass(frozen=True, slots=True)
class Kept:
    """A version with its number, and who wrote it down when."""

    number: int
    version: Version
    created_at: datetime
    created_by: str


def add_tariff(session: Session, version: Version, *, actor: str) -> Kept:
    """Keep a version from now on. The same again is the one that is there.

    Raises NotFound for an unknown tenant; Conflict where another begins on the same day; InvalidState where a
    month that it would change was billed.
    """
    tenant = find(session, Tenant, "tenant", version.tenant) if version.tenant else None
    for there in read_tariffs(session):
        if (there.version.tenant, there.version.valid_from) == (version.tenant, version.valid_from):
            if there.version == version:
                return there
            raise Conflict(
                f"Tariff {there.number} is for the same time: {version.label}. What was written down stays: "
                "give another valid_from."
            )
    _check_unbilled(session, version, tenant)
    number = len(session.scalars(select(TariffVersion.number)).all()) + 1
    row = TariffVersion(
        number=number,
        tenant_id=tenant.id if tenant else None,
        valid_from=str(version.valid_from) if version.valid_from else None,
        valid_until=str(version.valid_until) if version.valid_until else None,
        prices=kept(version.tariff),
        created_at=utc_now(),
        created_by=actor,
    )
    session.add(row)
    session.flush()
    opening = Opening("create", "tariff", new_id(), f"{number}", {"number": number})
    operations.close(session, operations.open_one(session, opening, actor=actor))
    return Kept(number, version, row.created_at, actor)


def _check_unbilled(session: Session, version: Version, tenant: Tenant | None) -> None:
    query = select(Bill.number, Bill.month, Tenant.name).join(Tenant, Tenant.id == Bill.tenant_id)
    if tenant is not None:
        query = query.where(Tenant.id == tenant.id)
    first = version.valid_from or date.min
    for number, month, name in session.execute(query.order_by(Bill.number)):
        begun = Month.parse(month)
        after = begun.following
        if first < date(after.year, after.month, 1) and (
            version.valid_until is None or version.valid_until > date(begun.year, begun.month, 1)
        ):
            raise InvalidState(
                f"The tariff ({version.label}) would be in force in {month}, and that month of tenant {name} "
                f"was billed ({number}): give a later valid_from."
            )


def read_tariffs(session: Session, tenant: str = "") -> list[Kept]:
    """All versions by number; of one tenant (its own) where named."""
    query = select(TariffVersion, Tenant.name).outerjoin(Tenant, Tenant.id == TariffVersion.tenant_id)
    if tenant:
        query = query.where(Tenant.name == tenant)
    return [_kept(row, name) for row, name in session.execute(query.order_by(TariffVersion.number))]


def read_tariff(session: Session, number: int) -> Kept:
    """Raises NotFound."""
    for there in read_tariffs(session):
        if there.number == number:
            return there
    raise NotFound(f"There is no tariff {number}. See `vdc tariff list`.")


def read_book(session: Session, otherwise: Tariff) -> TariffBook:
    """All versions; `otherwise`, the list prices, where none is in force."""
    return TariffBook(tuple(there.version for there in read_tariffs(session)), otherwise)


def in_force(session: Session, tenant: Tenant, otherwise: Tariff, now: datetime | None = None) -> Tariff:
    """What a tenant pays now."""
    today = (now or utc_now()).astimezone(ZoneInfo(tenant.time_zone)).date()
    return read_book(session, otherwise).on(tenant.name, today)[0]


def _kept(row: TariffVersion, tenant: str | None) -> Kept:
    values: dict[str, Any] = dict(row.prices)
    for name in ("valid_from", "valid_until"):
        if (day := getattr(row, name)) is not None:
            values[name] = day
    return Kept(row.number, version_of(values | {"tenant": tenant or ""}), row.created_at, row.created_by)
