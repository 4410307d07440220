"""Samples of what machines did, and the end of old ones. For graphs and forecasts: no bill needs them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, delete, insert, select
from sqlalchemy.orm import Session

from vdc.claims.deploy import host_ref
from vdc.model import DomainCounters, HostRef
from vdc.schema import Host, Sample, Site, Vm, utc_now


@dataclass(frozen=True, slots=True)
class HostCounters:
    """One host's answer, `at` when it was asked. With an `error` nothing else is known."""

    host: str
    at: datetime
    error: str = ""
    counters: tuple[DomainCounters, ...] = ()


@dataclass(frozen=True, slots=True)
class Metered:
    """How many machines were sampled, and which hosts were passed over, with the reason."""

    samples: int
    skipped: dict[str, str]


def read_hosts(session: Session) -> list[HostRef]:
    return [host_ref(host) for host in session.scalars(select(Host).order_by(Host.name))]


def record_samples(session: Session, answers: Iterable[HostCounters]) -> Metered:
    """Keep what hosts told of machines of this site; of other domains nothing."""
    answers = list(answers)
    site = session.scalars(select(Site.id)).one()
    known = set(session.scalars(select(Vm.id).where(Vm.ended_at.is_(None))))
    rows: list[dict[str, Any]] = []
    for answer in answers:
        for counters in answer.counters:
            if counters.site == site and counters.vm_id in known:
                values = asdict(counters)
                for key in ("name", "site"):
                    del values[key]
                rows.append(values | {"at": answer.at})
    if rows:
        session.execute(insert(Sample), rows)
    return Metered(len(rows), {answer.host: answer.error for answer in answers if answer.error})


def sweep_samples(session: Session, retention_days: int, now: datetime | None = None) -> int:
    """Remove samples older than that; returns how many there were."""
    before = (now or utc_now()) - timedelta(days=retention_days)
    result: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        delete(Sample).where(Sample.at < before)
    )
    return result.rowcount
