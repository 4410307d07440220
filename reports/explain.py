"""Why a line is on a bill: the events behind it, the operations behind these, and the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, localcontext
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from vdc.documents import Document, label
from vdc.errors import NotFound
from vdc.months import HOUR_US, MICROSECOND
from vdc.schema import Operation, UsageEvent
from vdc.tariff import to_cent

PRECISION = 60
SHOWN_PLACES = 6

_ORDER = {"created": 0, "resized": 1, "terminated": 9}
_BEGIN = ("created", "started", "resumed")


@dataclass(frozen=True, slots=True)
class Explained:
    """A line, how its amount comes about, and what happened."""

    number: int
    line: Mapping[str, Any]
    arithmetic: str
    follows: bool
    """Whether the amount is what the arithmetic gives."""
    events: list[dict[str, Any]]
    words: list[str]


def explain(session: Session, document: Document, number: int) -> Explained:
    """Line `number` (from 1) of a bill or a preview. Raises NotFound where it has no such line."""
    lines = document["lines"]
    if not 1 <= number <= len(lines):
        there = f"it has lines 1 to {len(lines)}" if lines else "nothing was used"
        raise NotFound(f"{label(document)} of tenant {document['tenant']} has no line {number}: {there}.")
    line = lines[number - 1]
    text, amount = arithmetic(line, document["hours"], document["currency"])
    begin, end = (datetime.fromisoformat(line[key]) for key in ("from", "to"))
    events = _read_events(session, line["vm_id"], begin, end)
    return Explained(
        number, line, text, amount == Decimal(line["amount"]), events, _words(document, line, events)
    )


def arithmetic(line: Mapping[str, Any], month_hours: str, currency: str) -> tuple[str, Decimal]:
    """The sum in words, and what it gives to the cent."""
    length_us = (datetime.fromisoformat(line["to"]) - datetime.fromisoformat(line["from"])) // MICROSECOND
    with localcontext(prec=PRECISION):
        hours = Decimal(length_us) / HOUR_US
        exact = Decimal(line["quantity"]) * Decimal(line["unit_price"])
        factors = f"{_plain(Decimal(line['quantity']))} {line['unit']} x {line['unit_price']}"
        if line["per"].endswith(("hour", "month")):
            exact *= hours
            factors = f"{_plain(hours)} hours x {factors}"
        if line["per"].endswith("month"):
            exact /= Decimal(month_hours)
            factors += f" / {month_hours} hours of the month"
        amount = to_cent(exact)
    shown = _plain(exact)
    rounded = "" if Decimal(shown) == amount else f" = {shown}, to the cent"
    return f"{factors}{rounded} = {amount} {currency}", amount


def _plain(value: Decimal) -> str:
    text = format(round(value, SHOWN_PLACES), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _read_events(session: Session, vm_id: str, begin: datetime, end: datetime) -> list[dict[str, Any]]:
    """From the machine's last start until the end of the line, each with the operation that wrote it."""
    query = (
        select(UsageEvent, Operation)
        .outerjoin(Operation, Operation.id == UsageEvent.operation_id)
        .where(UsageEvent.vm_id == vm_id, UsageEvent.at <= end)
    )
    rows = sorted(
        (tuple(row) for row in session.execute(query)), key=lambda r: (r[0].at, _ORDER.get(r[0].kind, 5))
    )
    since = max((e.at for e, _ in rows if e.at <= begin and e.kind in _BEGIN), default=begin)
    return [_event(event, operation, begin, end) for event, operation in rows if event.at >= since]


def _event(event: UsageEvent, operation: Operation | None, begin: datetime, end: datetime) -> dict[str, Any]:
    return {
        "at": event.at.astimezone(begin.tzinfo).isoformat(),
        "event": event.kind,
        "means": _meaning(event.at, begin, end),
        "vcpu": event.vcpu,
        "memory_mib": event.memory_mib,
        "disk_mib": event.disk_mib,
        "host": event.host,
        "operation": operation.kind if operation else None,
        "requested_by": operation.requested_by if operation else None,
        "started_at": operation.started_at if operation else None,
        "finished_at": operation.finished_at if operation else None,
        "flow_run_id": operation.flow_run_id if operation else None,
        "operation_id": event.operation_id,
    }


def _meaning(at: datetime, begin: datetime, end: datetime) -> str:
    if at == begin:
        return "begins it"
    if at == end:
        return "ends it"
    return "before" if at < begin else "during"


def _words(document: Document, line: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    if line["from"] == document["from"] and not any(e["means"] == "begins it" for e in events):
        said.append("It was so before the month began: the line begins with the month.")
    if line["to"] == document["charged_until"] and not any(e["means"] == "ends it" for e in events):
        over = "the month" if document["charged_until"] == document["to"] else "this preview"
        said.append(f"It is so still: the line ends with {over}.")
    return said
