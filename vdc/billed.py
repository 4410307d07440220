"""What a bill is made of: tenants, and drafts without a number."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from vdc.documents import Document
from vdc.months import Month, Window


@dataclass(frozen=True, slots=True)
class Billed:
    """A tenant as a bill needs it."""

    tenant_id: str
    name: str
    time_zone: str
    since: datetime | None = None
    """When it came: flat items are due from then on. None: it always was."""

    def window(self, month: Month) -> Window:
        return month.window(self.time_zone)


@dataclass(frozen=True, slots=True)
class Draft:
    """A bill without number: `document` is what will be its JSON."""

    tenant_id: str
    total: Decimal
    currency: str
    document: Document
