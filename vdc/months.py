"""Calendar months, in a time zone: the windows of bills."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from vdc.errors import Invalid

MICROSECOND = timedelta(microseconds=1)
HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def microseconds(instant: datetime) -> int:
    """Since 1970, exactly."""
    return (instant - _EPOCH) // MICROSECOND


def instant_of(microseconds: int) -> datetime:
    """The instant so long after the beginning of 1970, in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def check_time_zone(name: str) -> None:
    """Raises Invalid where `name` is no time zone of the IANA database."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise Invalid(f"Time zone {name!r} is none: give an IANA name, such as Europe/Madrid.") from error


@dataclass(frozen=True, slots=True, order=True)
class Month:
    """A month of a year; where it begins and ends depends on the time zone."""

    year: int
    month: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`2026-10`. Raises Invalid."""
        found = re.fullmatch(r"(2[0-9]{3})-(0[1-9]|1[0-2])", text)
        if found is None:
            raise Invalid(f"Month {text!r} is refused: give year and month, such as 2026-10.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of(cls, instant: datetime, zone: str) -> Self:
        """The month in which `instant` lies."""
        local = instant.astimezone(ZoneInfo(zone))
        return cls(local.year, local.month)

    def __str__(self) -> str:
        return f"{self.year}-{self.month:02}"

    @property
    def following(self) -> Month:
        return Month(self.year + self.month // 12, self.month % 12 + 1)

    @property
    def preceding(self) -> Month:
        return Month(self.year - (self.month == 1), (self.month - 2) % 12 + 1)

    def window(self, zone: str) -> Window:
        """From its first local midnight to that of the following month."""
        begin, end = (datetime(m.year, m.month, 1, tzinfo=ZoneInfo(zone)) for m in (self, self.following))
        return Window(begin.astimezone(UTC), end.astimezone(UTC))


@dataclass(frozen=True, slots=True)
class Window:
    """Half-open: `begin` belongs to it, `end` does not. Both in UTC."""

    begin: datetime
    end: datetime

    @property
    def hours(self) -> Decimal:
        """Its length; a month in which the clocks change has 743 or 745."""
        return Decimal((self.end - self.begin) // MICROSECOND) / HOUR_US
