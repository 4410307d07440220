"""Which tariff is in force for whom, and when. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Self
from zoneinfo import ZoneInfo

from vdc.errors import Invalid
from vdc.months import Window
from vdc.tariff import Tariff
from vdc.tariff_file import Version


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a window in which one tariff is in force; `label` names that."""

    window: Window
    tariff: Tariff
    label: str


@dataclass(frozen=True, slots=True)
class TariffBook:
    """All versions, of all tenants; `otherwise` is in force where none of them is."""

    versions: tuple[Version, ...] = ()
    otherwise: Tariff | None = None

    @classmethod
    def always(cls, tariff: Tariff) -> Self:
        """One tariff for everybody, whenever."""
        return cls(otherwise=tariff)

    @classmethod
    def of(cls, versions: Iterable[Version], otherwise: Tariff | None = None) -> Self:
        """Raises Invalid where two begin on the same day for the same tenant."""
        book = cls(tuple(versions), otherwise)
        begun = [(v.tenant, v.valid_from) for v in book.versions]
        for version in book.versions:
            if begun.count((version.tenant, version.valid_from)) > 1:
                raise Invalid(f"Two tariffs are given for the same time: {version.label}.")
        return book

    def on(self, tenant: str, day: date) -> tuple[Tariff, str]:
        """The tenant's own of that day, else everyone's: of several, the one that began last.

        Raises Invalid where there is none.
        """
        in_force = [
            v
            for v in self.versions
            if v.tenant in (tenant, "")
            and (v.valid_from is None or v.valid_from <= day)
            and (v.valid_until is None or day < v.valid_until)
        ]
        if in_force:
            last = max(in_force, key=lambda v: (v.tenant != "", v.valid_from or date.min))
            return last.tariff, last.label
        if self.otherwise is None:
            raise Invalid(f"No tariff is in force for tenant {tenant} on {day}.")
        return self.otherwise, "list prices"

    def pieces(self, tenant: str, window: Window, zone: str) -> list[Piece]:
        """The window, cut at the midnights at which the tenant's tariff changes.

        Raises Invalid where a part has no tariff, or the currency changes.
        """
        here = ZoneInfo(zone)
        first = window.begin.astimezone(here).date()
        cuts = {
            day
            for v in self.versions
            if v.tenant in (tenant, "")
            for day in (v.valid_from, v.valid_until)
            if day is not None and window.begin < _midnight(day, here) < window.end
        }
        days = [first, *sorted(cuts)]
        edges = [window.begin, *(_midnight(day, here) for day in days[1:]), window.end]
        pieces: list[Piece] = []
        for n, day in enumerate(days):
            tariff, label = self.on(tenant, day)
            if pieces and pieces[-1].label == label:
                pieces[-1] = Piece(Window(pieces[-1].window.begin, edges[n + 1]), tariff, label)
            else:
                pieces.append(Piece(Window(edges[n], edges[n + 1]), tariff, label))
        currencies = dict.fromkeys(p.tariff.currency for p in pieces)
        if len(currencies) > 1:
            raise Invalid(
                f"The tariff of tenant {tenant} changes from {' to '.join(currencies)} within "
                f"{first:%Y-%m}: a currency changes on the 1st of a month."
            )
        return pieces


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
