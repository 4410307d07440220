"""Samples of what machines do, what they sent of it, and the end of old ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import CursorResult, case, delete, func, insert, or_, select
from sqlalchemy.orm import Session, aliased

from vdc import operations
from vdc.claims.deploy import host_ref
from vdc.model import DomainCounters, HostRef
from vdc.operations import Opening
from vdc.schema import Host, Sample, Site, UsageEvent, Vm, new_id, utc_now

LATE = timedelta(minutes=5)
"""After the end of an hour, until it is counted: a host may answer late."""


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


def record_traffic(session: Session, *, actor: str, now: datetime | None = None) -> int:
    """Make usage events of what was sent in the hours that are over and not counted yet; returns how many.

    A machine's event is at its last sample in them. Between two samples a machine sent what its counter grew
    by; where that is smaller than before it began anew (a start, another host), and what it shows was sent.
    """
    site = session.scalars(select(Site)).one()
    until = ((now or utc_now()) - LATE).replace(minute=0, second=0, microsecond=0)
    if site.traffic_until is not None and site.traffic_until >= until:
        return 0
    sent = _sent(session, site.traffic_until, until)
    if sent:
        opening = Opening("meter", "site", new_id(), "traffic", {"until": until.isoformat()})
        claim = operations.open_one(session, opening, actor=actor)
        session.execute(insert(UsageEvent), [{"operation_id": claim.operation_id, **row} for row in sent])
        operations.close(session, claim)
    site.traffic_until = until
    return len(sent)


def _sent(session: Session, since: datetime | None, until: datetime) -> list[dict[str, Any]]:
    """What each machine sent from `since` to `until`, as rows of usage events.

    What passes through a router was sent by a machine, which pays for it.
    """
    earlier = aliased(Sample)
    before = (
        select(earlier.net_tx_bytes)
        .where(earlier.vm_id == Sample.vm_id, earlier.at < Sample.at)
        .order_by(earlier.at.desc())
        .limit(1)
        .scalar_subquery()
    )
    samples = select(Sample.vm_id, Sample.at, Sample.net_tx_bytes.label("now"), before.label("before"))
    samples = samples.where(Sample.at < until)
    each = (samples.where(Sample.at >= since) if since else samples).subquery()
    grown = case((each.c.now >= each.c.before, each.c.now - each.c.before), else_=each.c.now)
    total = (
        select(each.c.vm_id, func.max(each.c.at).label("at"), func.sum(grown).label("bytes"))
        .group_by(each.c.vm_id)
        .subquery()
    )
    query = (
        select(Vm, total.c.at, total.c.bytes)
        .join(total, total.c.vm_id == Vm.id)
        .where(total.c.bytes > 0)
        .order_by(Vm.id)
    )
    return [
        {
            "vm_id": vm.id,
            "tenant_id": vm.tenant_id,
            "kind": "traffic",
            "at": at,
            "vcpu": vm.vcpu,
            "memory_mib": vm.memory_mib,
            "disk_mib": 0,
            "host": "",
            "provider": "local",
            "bytes": int(sent),
        }
        for vm, at, sent in session.execute(query)
        if not vm.spec["context"].get("router")
    ]


def sweep_samples(session: Session, retention_days: int, now: datetime | None = None) -> int:
    """Remove samples older than that; returns how many there were.

    Of a machine that is there the last one stays: what it sends is counted from it.
    """
    before = (now or utc_now()) - timedelta(days=retention_days)
    later = aliased(Sample)
    followed = select(later.vm_id).where(later.vm_id == Sample.vm_id, later.at > Sample.at).exists()
    ended = select(Vm.id).where(Vm.id == Sample.vm_id, Vm.ended_at.is_not(None)).exists()
    result: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        delete(Sample)
        .where(Sample.at < before, or_(followed, ended))
        .execution_options(synchronize_session=False)
    )
    return result.rowcount
