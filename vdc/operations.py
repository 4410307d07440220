"""Operations: the lock, the journal and the audit of whatever is done to an object.

One operation per object may be open, kept by `operations.open_key`. An operation stores its owner (boot,
pid namespace, pid, process start time) and an epoch. Whoever takes it over raises the epoch; every write
names the epoch it was claimed with, and every act asks its `Fence` first. So a process that was only
paused finds, when it wakes, that it has to stop.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import CursorResult, insert, select, update
from sqlalchemy.orm import Session

from vdc import access
from vdc.access import Asked
from vdc.errors import Conflict, Superseded
from vdc.inventory import write_session
from vdc.schema import Operation, new_id, utc_now


def _clock_s() -> float:
    """Seconds that pass also while this process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to act: an operation and the epoch at which it was ours, since `at_s` on this clock."""

    operation_id: str
    epoch: int
    at_s: float = field(default_factory=_clock_s, compare=False)


@dataclass(frozen=True, slots=True)
class Opening:
    """What is needed to open an operation. `object_kind` is `vm`, `host`, `image`, `batch` or `site`."""

    kind: str
    object_kind: str
    object_id: str
    object_name: str
    spec: Mapping[str, Any]
    operation_id: str = ""


def process_start(pid: int) -> str:
    """Start time of a process in clock ticks since boot: field 22 of /proc/<pid>/stat (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@lru_cache(maxsize=2)
def _owner(pid: int) -> str:
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    pid_namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return f"{boot_id}/{pid_namespace}/{pid}/{process_start(pid)}"


def owner() -> str:
    """This process as an owner: `<boot id>/<pid namespace>/<pid>/<start time>`."""
    return _owner(os.getpid())


def provably_dead(other: str) -> bool:
    """Whether `other` ran here, under this boot and in our sight, and does no more."""
    boot_id, pid_namespace, pid, start = other.split("/")
    mine = owner().split("/")
    if [boot_id, pid_namespace] != mine[:2]:
        return False
    try:
        state_and_more = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # gone, or going while we read
        return True
    return state_and_more[19] != start or state_and_more[0] in "ZX"


def takeable(operations: Iterable[Operation], lease_s: float) -> list[Operation]:
    """Which of these open operations may be taken over: their owner is dead, or silent for over the lease.

    Ours too: a flow of this process that ended without closing them renews their heartbeats no more. A
    batch and its parts are silent together, or half of it would be left to an owner that lost the rest.
    """
    rows = list(operations)
    now = utc_now()
    heard: dict[tuple[str, str], datetime] = {}
    for row in rows:
        batch = (row.owner, row.parent_id or row.id)
        heard[batch] = max(row.heartbeat_at, heard.get(batch, row.heartbeat_at))
    silent = {batch for batch, at in heard.items() if now - at > timedelta(seconds=lease_s)}
    return [r for r in rows if (r.owner, r.parent_id or r.id) in silent or provably_dead(r.owner)]


def open_many(
    session: Session,
    openings: Iterable[Opening],
    *,
    actor: str,
    flow_run_id: str | None = None,
    parent_id: str | None = None,
) -> list[Claim]:
    """Open one operation per object, if who asks in this session may do so (vdc/access.py).

    Raises Forbidden or NotFound, and Conflict where an object has an open one: it says which, by whom, since
    when.
    """
    openings = list(openings)
    tenants = _permitted(session, openings)
    keys = [f"{o.object_kind}:{o.object_id}" for o in openings]
    taken = session.scalars(select(Operation).where(Operation.open_key.in_(keys))).first()
    if taken is not None:
        raise Conflict(
            f"{taken.object} is busy: {taken.kind} by {taken.requested_by} since "
            f"{taken.started_at:%H:%M:%S} UTC (operation {taken.id}). Wait for it; "
            "if its process died, `vdc reconcile` finishes it."
        )
    rows = [
        _row(session, o, actor, flow_run_id, parent_id, tenants) | {"open_key": key}
        for o, key in zip(openings, keys, strict=True)
    ]
    if rows:
        session.execute(insert(Operation), rows)
    return [Claim(str(row["id"]), 1) for row in rows]


def _permitted(session: Session, openings: Iterable[Opening]) -> dict[str, str | None]:
    asked = [Asked(o.object_kind, o.kind, o.object_id, o.object_name) for o in openings]
    return access.permit(session, asked)


def _row(
    session: Session,
    opening: Opening,
    actor: str,
    flow_run_id: str | None,
    parent_id: str | None,
    tenants: Mapping[str, str | None],
) -> dict[str, Any]:
    now = utc_now()
    return {
        "id": opening.operation_id or new_id(),
        "parent_id": parent_id,
        "kind": opening.kind,
        "object": f"{opening.object_kind}/{opening.object_name}",
        "object_id": opening.object_id,
        "requested_by": actor,
        "user_id": access.asking(session).user_id or None,
        "tenant_id": tenants.get(opening.object_id),
        "flow_run_id": flow_run_id,
        "spec": dict(opening.spec),
        "owner": owner(),
        "epoch": 1,
        "attempts": 1,
        "heartbeat_at": now,
        "started_at": now,
    }


def write_refused(
    session: Session,
    opening: Opening,
    error: str,
    *,
    actor: str,
    flow_run_id: str | None = None,
    parent_id: str | None = None,
) -> None:
    """Write into the journal what was refused of a batch whose other parts go on; it was never open."""
    over = {"finished_at": utc_now(), "outcome": "failed", "error": error}
    tenants = _permitted(session, [opening])
    session.execute(
        insert(Operation), [_row(session, opening, actor, flow_run_id, parent_id, tenants) | over]
    )


def open_one(session: Session, opening: Opening, *, actor: str, flow_run_id: str | None = None) -> Claim:
    """Open an operation on one object; see `open_many`."""
    return open_many(session, [opening], actor=actor, flow_run_id=flow_run_id)[0]


def open_of_run(session: Session, kind: str, flow_run_id: str | None) -> Operation | None:
    """The open operation of this kind of a flow run: a run that is repeated goes on with it."""
    if flow_run_id is None:
        return None
    return session.scalars(
        select(Operation).where(
            Operation.flow_run_id == flow_run_id,
            Operation.kind == kind,
            Operation.parent_id.is_(None),
            Operation.finished_at.is_(None),
        )
    ).first()


def take_over(session: Session, operation: Operation, flow_run_id: str | None = None) -> Claim:
    """Make an open operation ours; its former owner is superseded from the commit on.

    Raises Superseded where somebody else was faster.
    """
    claim = Claim(operation.id, operation.epoch + 1)
    result: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(Operation)
        .where(
            Operation.id == operation.id,
            Operation.epoch == operation.epoch,
            Operation.finished_at.is_(None),
        )
        .values(
            owner=owner(),
            epoch=claim.epoch,
            attempts=Operation.attempts + 1,
            heartbeat_at=utc_now(),
            flow_run_id=flow_run_id or operation.flow_run_id,
        )
    )
    if result.rowcount != 1:
        raise Superseded(f"Operation {operation.id} was taken over by another process.")
    return claim


def close(
    session: Session, claim: Claim, *, error: str | None = None, result: Mapping[str, Any] | None = None
) -> None:
    """Close an operation as `done`, or as `failed` with the reason; `result` is what there is to tell of it.

    Raises Superseded where it is no longer ours: the surrounding transaction must then be rolled back.
    """
    changed: CursorResult[Any] = session.execute(  # type: ignore[assignment]
        update(Operation)
        .where(
            Operation.id == claim.operation_id,
            Operation.epoch == claim.epoch,
            Operation.finished_at.is_(None),
        )
        .values(
            open_key=None,
            finished_at=utc_now(),
            outcome="failed" if error else "done",
            error=error,
            result=dict(result) if result is not None else None,
        )
    )
    if changed.rowcount != 1:
        raise Superseded(f"Operation {claim.operation_id} was taken over by another process.")


class Fence:
    """Tells an acting thread whether its operations are still its own.

    A background thread renews the heartbeats of all that this process owns. Nobody may take an operation
    from a live process before the lease has run out, so that within half a lease of the last renewal the
    answer costs nothing; later (the process was paused, or the database is slow) the database is asked.
    """

    def __init__(self, url: str, lease_s: float, claims: Iterable[Claim]) -> None:
        self._url = url
        self._lease_s = lease_s
        claims = list(claims)
        self._held = {c.operation_id: c.epoch for c in claims}
        # Not now: we may have been stopped since the claim.
        self._renewed_at = min((c.at_s for c in claims), default=_clock_s())
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def check(self, claim: Claim) -> None:
        """Raise Superseded where `claim` is no longer ours."""
        if _clock_s() - self._renewed_at > self._lease_s / 2:
            self.renew()
        if self._held.get(claim.operation_id) != claim.epoch:
            raise Superseded(f"Operation {claim.operation_id} was taken over by another process.")

    def renew(self) -> None:
        """Renew the heartbeats and learn which operations are still held."""
        with self._lock:
            before = _clock_s()
            if before - self._renewed_at < self._lease_s / 8:
                return  # another thread just did it
            if self._stop.is_set():
                return
            with write_session(self._url) as session:
                mine = owner()
                session.execute(
                    update(Operation)
                    .where(Operation.owner == mine, Operation.finished_at.is_(None))
                    .values(heartbeat_at=utc_now())
                )
                rows = session.execute(
                    select(Operation.id, Operation.epoch).where(
                        Operation.owner == mine, Operation.finished_at.is_(None)
                    )
                )
                self._held = {row.id: row.epoch for row in rows}
            self._renewed_at = before

    def _renew_forever(self, on_error: Callable[[Exception], None]) -> None:
        while not self._stop.wait(self._lease_s / 4):
            try:
                self.renew()
            except Exception as error:  # noqa: BLE001 - the next check asks the database itself and fails
                on_error(error)

    @contextmanager
    def kept(self, on_error: Callable[[Exception], None]) -> Iterator[Fence]:
        """Renew in the background while the block runs; what still acts after it is stopped.

        A flow that fails leaves threads behind: nobody records what they do, so they may do nothing more.
        """
        thread = threading.Thread(target=self._renew_forever, args=(on_error,), name="heartbeat", daemon=True)
        renewing = bool(self._held)  # mostly there is nothing in reconcile
        if renewing:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            if renewing:
                thread.join()
            with self._lock:
                self._held = {}
