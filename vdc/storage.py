"""How full datastores are: what hosts saw of them, and what machines were promised of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from vdc.errors import NoCapacity
from vdc.model import StorageUse
from vdc.schema import Datastore, Disk, Host, HostDatastore, Vm, Volume, utc_now
from vdc.states import HOLDING

WRITTEN_MIB = 1
"""What making a machine writes at least, whatever its disk's size: its seed, and an overlay or empty copy."""


@dataclass(frozen=True, slots=True)
class Room:
    """A file system that disks are in: a whole shared datastore (`host` is empty), or one host's part.

    `allocated_mib` is what machines and kept disks were promised of it; overlays take less. A machine that
    migrates is promised its place on both hosts. Sizes are None where no host has looked yet.
    """

    datastore: str
    host: str
    overcommit: float | None
    capacity_mib: int | None
    free_mib: int | None
    allocated_mib: int
    observed_at: datetime | None

    @property
    def used_mib(self) -> int | None:
        known = self.capacity_mib is not None and self.free_mib is not None
        return (self.capacity_mib or 0) - (self.free_mib or 0) if known else None

    def refusal(self, machines: int, disk_mib: int) -> str:
        """Why it cannot take so many machines with disks of that size; empty where it can."""
        if self.free_mib is not None and self.free_mib < machines * WRITTEN_MIB:
            at = f" ({self.observed_at:%Y-%m-%d %H:%M} UTC; `vdc reconcile` looks again)"
            return f"it has {self.free_mib} MiB free{at if self.observed_at else ''}"
        if self.overcommit is None or self.capacity_mib is None:
            return ""
        most, more = int(self.capacity_mib * self.overcommit), machines * disk_mib
        if self.allocated_mib + more <= most:
            return ""
        return (
            f"{self.allocated_mib} of {most} MiB are promised ({self.overcommit:g} times its size), "
            f"{more} more asked"
        )


def rooms(session: Session, datastores: Iterable[Datastore]) -> dict[str, list[Room]]:
    """The rooms of each datastore, by its id: one of a shared one, else one a host, by the host's name."""
    promised = _promised(session)
    mounts: dict[str, list[tuple[Host, HostDatastore]]] = {}
    query = select(HostDatastore, Host).join(Host, Host.id == HostDatastore.host_id).order_by(Host.name)
    for mount, host in session.execute(query):
        mounts.setdefault(mount.datastore_id, []).append((host, mount))
    return {store.id: _rooms(store, mounts.get(store.id, []), promised) for store in datastores}


def _rooms(
    store: Datastore,
    mounts: Sequence[tuple[Host, HostDatastore]],
    promised: Mapping[tuple[str, str], int],
) -> list[Room]:
    if not store.shared:
        return [
            Room(
                store.name,
                host.name,
                store.overcommit,
                mount.capacity_mib,
                mount.free_mib,
                promised.get((store.id, host.id), 0),
                mount.observed_at,
            )
            for host, mount in mounts
        ]
    seen = [(mount.observed_at, host.name, mount) for host, mount in mounts if mount.observed_at]
    last = max(seen)[2] if seen else None
    return [
        Room(
            store.name,
            "",
            store.overcommit,
            last.capacity_mib if last else None,
            last.free_mib if last else None,
            promised.get((store.id, ""), 0),
            last.observed_at if last else None,
        )
    ]


def summed(parts: Sequence[Room]) -> dict[str, Any]:
    """Sizes over the parts that hosts have looked at; `promised` is allocated by capacity. None: unknown."""
    seen = [part for part in parts if part.capacity_mib is not None]
    capacity_mib = sum(part.capacity_mib or 0 for part in seen) if seen else None
    allocated_mib = sum(part.allocated_mib for part in parts)
    return {
        "capacity_mib": capacity_mib,
        "used_mib": sum(part.used_mib or 0 for part in seen) if seen else None,
        "free_mib": sum(part.free_mib or 0 for part in seen) if seen else None,
        "allocated_mib": allocated_mib,
        "promised": round(allocated_mib / capacity_mib, 2) if capacity_mib else None,
        "observed_at": min((part.observed_at for part in seen if part.observed_at), default=None),
    }


def _promised(session: Session) -> dict[tuple[str, str], int]:
    """MiB by (datastore, host), and by (datastore, empty) over all hosts."""
    found: dict[tuple[str, str], int] = {}
    for host_id in (Vm.host_id, Vm.target_host_id):
        query = (
            select(Disk.datastore_id, host_id, func.sum(Disk.size_mib))
            .join(Vm, Vm.id == Disk.vm_id)
            .where(Vm.state.in_(HOLDING), Disk.datastore_id.is_not(None), host_id.is_not(None))
            .group_by(Disk.datastore_id, host_id)
        )
        for datastore_id, where, mib in session.execute(query):
            assert datastore_id is not None, "by the query"
            assert where is not None, "by the query"
            found[datastore_id, where] = found.get((datastore_id, where), 0) + int(mib)
            if host_id is Vm.host_id:
                found[datastore_id, ""] = found.get((datastore_id, ""), 0) + int(mib)
    # One that is attached is among the machine's.
    kept = (
        select(Volume.datastore_id, Volume.host_id, func.sum(Volume.size_mib))
        .where(Volume.state.in_(("kept", "removing")))
        .group_by(Volume.datastore_id, Volume.host_id)
    )
    for datastore_id, where, mib in session.execute(kept):
        for at in (where, ""):
            found[datastore_id, at] = found.get((datastore_id, at), 0) + int(mib)
    return found


def room_of(session: Session, store: Datastore, host: str) -> Room:
    """The room that disks of machines on the host of this name, which mounts the datastore, are in."""
    return next(room for room in rooms(session, [store])[store.id] if room.host in ("", host))


def check_shared_room(session: Session, store: Datastore, machines: int, disk_mib: int) -> None:
    """Raise NoCapacity where a shared datastore cannot take the machines; of others, placement decides."""
    if not store.shared:
        return
    (room,) = rooms(session, [store])[store.id]
    if refused := room.refusal(machines, disk_mib):
        raise NoCapacity(f"Datastore {store.name} cannot take {machines} more disks: {refused}.")


def record_use(session: Session, uri: str, hosts: Sequence[str], use: StorageUse) -> None:
    """Write down what was seen of the datastore, for the hosts of these names that mount it."""
    session.execute(
        update(HostDatastore)
        .where(
            HostDatastore.datastore_id.in_(select(Datastore.id).where(Datastore.uri == uri)),
            HostDatastore.host_id.in_(select(Host.id).where(Host.name.in_(hosts))),
        )
        .values(capacity_mib=use.capacity_mib, free_mib=use.free_mib, observed_at=utc_now())
    )
