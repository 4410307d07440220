"""Make a datacenter, hurt it, and look at it from outside: for tests, planning and scale simulation."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vdc.errors
from drivers.router import DIGEST
from drivers.simulated import devices, shapes, snapshots
from drivers.simulated.store import CALLS, POLL_S, SCHEMA, Datacenter, close, datacenter, uri
from vdc.errors import Conflict, Invalid, NotFound, Transient
from vdc.model import DevicesSeen, HostFacts, HostRef, ShapeSeen


@dataclass(frozen=True, slots=True)
class Store:
    """A datastore to simulate: `qcow2` disks are overlays, `raw` disks full copies."""

    name: str
    shared: bool = True
    disk_format: str = "qcow2"
    capacity_mib: int = 10 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch that every host has."""

    name: str
    vlan: bool = True
    tunnels: bool = False
    """It has to be told where the other hosts are."""


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A driver's call as it took effect; `error` is the class that its caller saw, or empty."""

    n: int
    host: str
    call: str
    subject: str
    pid: int
    time: float
    error: str


@dataclass(frozen=True, slots=True)
class Held:
    """Where a process stands at a gate."""

    pid: int
    host: str
    call: str
    subject: str


def host_facts(name: str, vcpu: int = 32, memory_mib: int = 131_072) -> HostFacts:
    """A host that can run everything; its uuid depends on its name alone."""
    return HostFacts(
        hostname=name,
        host_uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        arch="x86_64",
        domain_types=("kvm", "qemu"),
        vcpu=vcpu,
        memory_mib=memory_mib,
        load_1m=0.0,
        hypervisor_version="simulated 1.0",
    )


class Simulation:
    """The hand on a simulated datacenter. What it sets is in the file: all processes obey at their next call.

    A call is named as in the log (`hypervisor.ensure_started`), by the part after the dot (of every driver
    that has it), or `*`. `host=None` means any host.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        datacenter(self.path)

    @classmethod
    def create(
        cls,
        path: Path,
        hosts: Sequence[HostFacts | str] = ("h1", "h2"),
        datastores: Sequence[Store] = (Store("shared"),),
        switches: Sequence[Switch] = (Switch("trunk0"),),
        *,
        seed: int = 0,
    ) -> Simulation:
        """A new datacenter. Raises Conflict if the file is there."""
        path = path.resolve()
        try:
            path.touch(exist_ok=False)
        except FileExistsError as error:
            raise Conflict(f"{path} exists: a simulated datacenter is created in a new file.") from error
        db = sqlite3.connect(path, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=OFF")
            db.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            db.execute("BEGIN")
            db.execute("INSERT INTO control VALUES (1, ?)", (seed,))
            db.executemany(
                "INSERT INTO datastores(name, shared, disk_format, capacity_mib) VALUES (?, ?, ?, ?)",
                [(_name(s.name), s.shared, s.disk_format, s.capacity_mib) for s in datastores],
            )
            rows = [(_name(s.name), s.vlan, s.tunnels) for s in switches]
            db.executemany("INSERT INTO switches VALUES (?, ?, ?)", rows)
            _add_hosts(db, hosts)
            db.execute("COMMIT")
        finally:
            db.close()
        return cls(path)

    def delete(self) -> None:
        """Remove the file and what SQLite keeps beside it."""
        close(self.path)
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    # -- names ---------------------------------------------------------------------------------------------

    def host(self, name: str, domain_type: str = "kvm") -> HostRef:
        return HostRef(name=name, uri=uri(self.path, "host", name), domain_type=domain_type)

    def datastore_uri(self, name: str = "shared") -> str:
        return uri(self.path, "datastore", name)

    def add_cloud(self, name: str) -> str:
        """A cloud without instances; returns its URI. `host_down` makes it unreachable."""
        self.add_hosts([host_facts(name)])
        return uri(self.path, "cloud", name)

    def instances(self) -> list[tuple[str, str, str, str]]:
        """(id, state, type, machine's id) of all instances that there ever were."""
        rows = self._all("SELECT id, state, type, vm_id FROM instances ORDER BY id")
        return [(row[0], row[1], row[2], row[3]) for row in rows]

    def network_uri(self, switch: str = "trunk0") -> str:
        return uri(self.path, "switch", switch)

    # -- what the machines do ------------------------------------------------------------------------------

    def add_hosts(self, hosts: Sequence[HostFacts | str]) -> None:
        with self._db.transaction() as db:
            _add_hosts(db, hosts)

    def host_down(self, name: str, *, domains: str = "survive") -> None:
        """Calls to the host raise HostUnreachable; its domains `survive` (cable) or `die` (power)."""
        if domains not in ("survive", "die"):
            raise Invalid(f"domains={domains!r}: expected 'survive' or 'die'.")
        with self._db.transaction() as db:
            _must_change(db.execute("UPDATE hosts SET up = 0 WHERE name = ?", (name,)), f"host {name}")
            if domains == "die":
                db.execute("UPDATE domains SET state = 'stopped' WHERE host = ?", (name,))
                db.execute("DELETE FROM ports WHERE host = ?", (name,))

    def host_up(self, name: str) -> None:
        with self._db.transaction() as db:
            _must_change(db.execute("UPDATE hosts SET up = 1 WHERE name = ?", (name,)), f"host {name}")

    def set_counters(
        self,
        domain: str,
        host: str,
        cpu_s: float,
        disk_read_bytes: int = 0,
        disk_write_bytes: int = 0,
        net_rx_bytes: int = 0,
        net_tx_bytes: int = 0,
    ) -> None:
        """What the domain did since it was started."""
        row = (host, domain, cpu_s, disk_read_bytes, disk_write_bytes, net_rx_bytes, net_tx_bytes)
        with self._db.transaction() as db:
            db.execute("REPLACE INTO counters VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def write_guest(self, domain: str, *, disk: str = "", memory: str = "") -> None:
        """What the guest writes on its first disk (also while it is off), and keeps in its memory."""
        with self._db.transaction() as db:
            host, place = _first_disk(db, domain)
            if disk:
                db.execute("REPLACE INTO disk_content VALUES (?, ?, ?, ?)", (*place, disk))
            if memory:
                db.execute("REPLACE INTO memory_content VALUES (?, ?, ?)", (host, domain, memory))

    def read_guest(self, domain: str) -> tuple[str, str]:
        """What `write_guest` wrote last, on disk and in memory, or what it was taken back to."""
        with self._db.transaction() as db:
            host, place = _first_disk(db, domain)
            return (
                snapshots.content(db.execute, place),
                snapshots.memory(db.execute, host, domain),
            )

    def router(self, domain: str) -> str:
        """The digest of what a router has in force, as it says it; empty: it is none, or forgot."""
        row = self._all("SELECT said FROM routers WHERE domain = ?", (domain,))
        return str(row[0][0]) if row else ""

    def forget(self, domain: str) -> None:
        """A router has something else in force than it was told."""
        with self._db.transaction() as db:
            db.execute("UPDATE routers SET said = ? WHERE domain = ?", (f"{DIGEST}{'0' * 16}", domain))

    def snapshots(self) -> dict[str, set[str]]:
        """Ids of the snapshots in each file that has any."""
        found: dict[str, set[str]] = {}
        for file, snapshot in self._all("SELECT file, id FROM snapshots"):
            found.setdefault(file, set()).add(snapshot)
        return found

    def guest_shutdown(self, domain: str, host: str | None = None) -> None:
        """The guest powers itself off."""
        self._set_state(domain, host, "stopped")

    def ignore_acpi(self, domain: str) -> None:
        """The guest listens to the power button no more, and its agent does not answer."""
        with self._db.transaction() as db:
            db.execute("INSERT OR IGNORE INTO deaf VALUES (?)", (domain,))

    def give_nothing_back(self, domain: str) -> None:
        """The guest has no balloon driver, and lets go of no CPU and no device."""
        with self._db.transaction() as db:
            db.execute("INSERT OR IGNORE INTO rigid VALUES (?)", (domain,))

    def shape(self, host: str, domain: str) -> ShapeSeen:
        """What it has, as its guest sees it; of one that is off, what it is described with."""
        with self._db.transaction() as db:
            _, place = _first_disk(db, domain)
            size = "SELECT virtual_mib FROM files WHERE datastore = ? AND host = ? AND name = ?"
            disks = tuple(int(found[0]) for found in db.execute(size, place))
            return shapes.seen(db.execute, host, domain, disks)

    def file_checksum(self, datastore: str, file: str, host: str = "") -> str:
        """Of a seed or an image, hex."""
        sql = "SELECT checksum FROM files WHERE datastore = ? AND host = ? AND name = ?"
        return bytes(self._one(sql, (datastore, host, file))).hex()

    def devices(self, host: str, domain: str) -> tuple[DevicesSeen, DevicesSeen]:
        """What is plugged into it, and what it is described with."""
        with self._db.transaction() as db:
            return devices.seen(db.execute, host, domain), devices.described(db.execute, host, domain)

    def boots(self, domain: str) -> int:
        """How often the guest began anew: starts, reboots and resets."""
        return int(self._one("SELECT coalesce(sum(n), 0) FROM boots WHERE domain = ?", (domain,)))

    def crash(self, domain: str, host: str | None = None) -> None:
        """QEMU dies under the guest."""
        self._set_state(domain, host, "crashed")

    def _set_state(self, domain: str, host: str | None, state: str) -> None:
        with self._db.transaction() as db:
            changed = db.execute(
                "UPDATE domains SET state = ? WHERE name = ? AND (? IS NULL OR host = ?)",
                (state, domain, host, host),
            )
            _must_change(changed, f"domain {domain}")

    def add_foreign_domain(self, host: str, name: str, state: str = "running") -> None:
        """A domain without our metadata, as somebody makes with virsh."""
        spec = {"files": [], "nics": [], "size": {"vcpu": 1, "max_vcpu": 1, "memory_mib": 32}}
        row = (host, name, str(uuid.uuid4()), "", "", state, json.dumps(spec))
        with self._db.transaction() as db:
            db.execute("INSERT INTO domains VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def add_file(self, datastore: str, file: str, size: int, host: str = "") -> None:
        """A file that no driver made; `host` is that of a local datastore."""
        with self._db.transaction() as db:
            row = (datastore, host, file, size)
            db.execute("INSERT INTO files(datastore, host, name, size) VALUES (?, ?, ?, ?)", row)

    def remove_file(self, datastore: str, file: str, host: str = "") -> None:
        """Somebody's `rm`."""
        with self._db.transaction() as db:
            row = (datastore, host, file)
            gone = db.execute("DELETE FROM files WHERE datastore = ? AND host = ? AND name = ?", row)
            _must_change(gone, f"file {file}")

    def grow_file(self, datastore: str, file: str, size: int, host: str = "") -> None:
        """What a guest has written takes room."""
        with self._db.transaction() as db:
            row = (size, datastore, host, file)
            grown = db.execute("UPDATE files SET size = ? WHERE datastore = ? AND host = ? AND name = ?", row)
            _must_change(grown, f"file {file}")

    def damage(self, datastore: str, file: str, problem: str, host: str = "") -> None:
        """Bytes of the file are not what they were; `problem` is what a check of it tells."""
        with self._db.transaction() as db:
            db.execute("REPLACE INTO damage VALUES (?, ?, ?, ?)", (datastore, host, file, problem))

    def add_port(self, host: str, switch: str, device: str) -> None:
        """A port that no domain uses."""
        with self._db.transaction() as db:
            db.execute("INSERT INTO ports VALUES (?, ?, ?, '')", (host, device, switch))

    def loosen_port(self, host: str, device: str) -> None:
        """Somebody takes a port's rules away."""
        with self._db.transaction() as db:
            loosened = db.execute("UPDATE ports SET rules = '' WHERE host = ? AND device = ?", (host, device))
            _must_change(loosened, f"port {device} on {host}")

    def peers(self, host: str, switch: str) -> list[str]:
        """Where a host's tunnels lead to."""
        query = "SELECT peer FROM peers WHERE host = ? AND switch = ? ORDER BY peer"
        with self._db.transaction() as db:
            return [peer for (peer,) in db.execute(query, (host, switch))]

    def forget_peer(self, host: str, switch: str, peer: str) -> None:
        """Somebody cuts a host's tunnels to another one."""
        with self._db.transaction() as db:
            cut = db.execute(
                "DELETE FROM peers WHERE host = ? AND switch = ? AND peer = ?", (host, switch, peer)
            )
            _must_change(cut, f"peer {peer} of {host}")

    def copy_domain(self, name: str, source: str, target: str, state: str = "running") -> None:
        """The same domain on a second host too: what a failed fencing leaves behind."""
        with self._db.transaction() as db:
            copied = db.execute(
                "INSERT INTO domains SELECT ?, name, uuid, vm_id, site, ?, spec FROM domains"
                " WHERE host = ? AND name = ?",
                (target, state, source, name),
            )
            _must_change(copied, f"domain {name} on {source}")
            shapes.carry(db.execute, name, source, target)
            devices.carry(db.execute, name, source, target)

    def set_uplink(self, host: str, switch: str, present: bool) -> None:
        """Take the switch from a host (with what it carried), or give it back."""
        with self._db.transaction() as db:
            if present:
                db.execute("INSERT OR IGNORE INTO uplinks VALUES (?, ?)", (host, switch))
            else:
                db.execute("DELETE FROM uplinks WHERE host = ? AND switch = ?", (host, switch))
                db.execute("DELETE FROM networks WHERE host = ? AND switch = ?", (host, switch))

    def set_writable(self, datastore: str, writable: bool) -> None:
        with self._db.transaction() as db:
            changed = db.execute("UPDATE datastores SET writable = ? WHERE name = ?", (writable, datastore))
            _must_change(changed, f"datastore {datastore}")

    def set_facts(self, facts: HostFacts) -> None:
        """Change what a host says of itself."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM hosts WHERE name = ?", (facts.hostname,))
            _add_hosts(db, [facts])

    # -- time and faults -----------------------------------------------------------------------------------

    def set_latency(self, call: str, seconds: float, jitter: float = 0.0, host: str | None = None) -> None:
        """Such calls take `seconds` plus or minus up to `jitter`, the same for the same call and seed."""
        with self._db.transaction() as db:
            db.execute(
                "REPLACE INTO latencies VALUES (?, ?, ?, ?)", (_call(call), host or "", seconds, jitter)
            )
            _changed(db)

    def fail_next(
        self,
        call: str,
        times: int = 1,
        error: str = "DriverFailure",
        *,
        after: bool = False,
        halfway: bool = False,
        host: str | None = None,
    ) -> None:
        """Fail the next `times` such calls.

        `after`: the effect happened, the answer got lost. `halfway`: part of it happened (a half-written
        file, a port without its domain, a domain powered off but defined); a call without a middle, or with
        nothing to do, succeeds.
        """
        moment = "after" if after else "halfway" if halfway else "before"
        self._add_fault(_call(call), host, None, times, error, moment)

    def fail_at(
        self, n: int, error: str = "DriverFailure", *, after: bool = False, halfway: bool = False
    ) -> None:
        """Fail the n-th driver call from now (1 is the next one), whatever it is and whoever makes it."""
        moment = "after" if after else "halfway" if halfway else "before"
        self._add_fault("*", None, self.call_count() + n, 1, error, moment)

    def _add_fault(
        self, call: str, host: str | None, at: int | None, times: int, error: str, moment: str
    ) -> None:
        kind = getattr(vdc.errors, error, None)
        known = error in ("DriverFailure", "NoCapacity")
        if not known and not (isinstance(kind, type) and issubclass(kind, Transient)):
            raise Invalid(f"error={error!r}: drivers raise DriverFailure, NoCapacity, or a transient error.")
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO faults(call, host, at, times, error, moment) VALUES (?, ?, ?, ?, ?, ?)",
                (call, host or "", at, times, error, moment),
            )
            _changed(db)

    def clear(self) -> None:
        """No latency, fault or gate any more; hosts that are down stay down."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM latencies")
            db.execute("DELETE FROM faults")
            db.execute("DELETE FROM holds")
            db.execute("DELETE FROM held")
            _changed(db)

    def pending_faults(self) -> int:
        """Faults that nobody ran into yet: a test that expected one can see that it never came."""
        return int(self._one("SELECT coalesce(sum(times), 0) FROM faults"))

    # -- gates ---------------------------------------------------------------------------------------------

    def hold(self, call: str, host: str | None = None, *, skip: int = 0, deadline_s: float = 60.0) -> None:
        """Shut a gate: such calls (after `skip` more) wait before they do anything, until `release`.

        A process that stands at a gate holds no lock: it can be killed or stopped there. A call that is
        not released within `deadline_s` raises TimedOut.
        """
        with self._db.transaction() as db:
            row = (_call(call), host or "", skip, deadline_s)
            db.execute("INSERT INTO holds(call, host, skip, deadline_s) VALUES (?, ?, ?, ?)", row)
            _changed(db)

    def release(self, call: str) -> None:
        """Open all gates that were shut under this name."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM held WHERE hold IN (SELECT id FROM holds WHERE call = ?)", (_call(call),))
            db.execute("DELETE FROM holds WHERE call = ?", (call,))
            _changed(db)

    def held(self) -> list[Held]:
        """Who stands at a gate, in order of arrival; killed processes included until the gate opens."""
        return [Held(*row) for row in self._all("SELECT pid, host, call, subject FROM held ORDER BY id")]

    def wait_until_held(self, deadline_s: float = 30.0, *, count: int = 1) -> list[Held]:
        """Wait for `count` calls at gates. Raises TimeoutError, naming the last calls made."""
        deadline = time.monotonic() + deadline_s
        while len(held := self.held()) < count:
            if time.monotonic() > deadline:
                last = [f"{c.call} {c.subject} on {c.host}" for c in self.log()[-5:]]
                raise TimeoutError(
                    f"{len(held)} of {count} calls held after {deadline_s:g} s; last calls: {last}"
                )
            time.sleep(POLL_S)
        return held

    # -- looking -------------------------------------------------------------------------------------------

    def call_count(self) -> int:
        """Driver calls made so far, by all processes."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'log'"))

    def log(self, since: int = 0) -> list[LoggedCall]:
        """Calls in the order in which they took effect; `since` is an earlier `call_count()`."""
        return [LoggedCall(*row) for row in self._all("SELECT * FROM log WHERE n > ? ORDER BY n", (since,))]

    def virtual_size_mib(self, datastore: str, file: str, host: str = "") -> int:
        """The size of a disk as its guest would see it."""
        sql = "SELECT virtual_mib FROM files WHERE datastore = ? AND host = ? AND name = ?"
        return int(self._one(sql, (datastore, host, file)))

    def snapshot_state(self) -> dict[str, Any]:
        """Domains, files and ports, to compare with a baseline. Networks that hosts carry are left out."""
        domains: dict[str, dict[str, str]] = {}
        for host, name, state in self._all("SELECT host, name, state FROM domains ORDER BY host, name"):
            domains.setdefault(host, {})[name] = state
        files: dict[str, dict[str, int]] = {}
        for store, host, name, size in self._all(
            "SELECT datastore, host, name, size FROM files ORDER BY 1, 2, 3"
        ):
            files.setdefault(f"{store}@{host}" if host else store, {})[name] = size
        ports: dict[str, list[str]] = {}
        for host, device in self._all("SELECT host, device FROM ports ORDER BY host, device"):
            ports.setdefault(host, []).append(device)
        return {"domains": domains, "files": files, "ports": ports}

    def port_rules(self, host: str, device: str) -> str:
        """VLAN, MAC and address that a port is for, and what else it lets through."""
        return str(self._one("SELECT rules FROM ports WHERE host = ? AND device = ?", (host, device)))

    def loose_ports(self) -> list[str]:
        """Devices without rules."""
        return [row[0] for row in self._all("SELECT device FROM ports WHERE rules = '' ORDER BY device")]

    @property
    def _db(self) -> Datacenter:
        """Looked up every time: a forked child has a connection of its own."""
        return datacenter(self.path)

    def _all(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._db.transaction() as db:
            return db.execute(sql, values).fetchall()

    def _one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        return self._all(sql, values)[0][0]


def _add_hosts(db: sqlite3.Connection, hosts: Sequence[HostFacts | str]) -> None:
    facts = [host_facts(host) if isinstance(host, str) else host for host in hosts]
    db.executemany(
        "INSERT INTO hosts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        [
            (
                _name(f.hostname),
                f.host_uuid,
                f.arch,
                " ".join(f.domain_types),
                f.vcpu,
                f.memory_mib,
                f.load_1m,
                f.hypervisor_version,
                f.cpu_model,
            )
            for f in facts
        ],
    )
    db.executemany(
        "INSERT OR IGNORE INTO uplinks SELECT ?, name FROM switches", [(f.hostname,) for f in facts]
    )


def _first_disk(db: sqlite3.Connection, domain: str) -> tuple[str, snapshots.Place]:
    """The host of a domain, and where its first disk is."""
    row = db.execute("SELECT host, spec FROM domains WHERE name = ?", (domain,)).fetchone()
    if row is None:
        raise NotFound(f"There is no domain {domain} in this datacenter.")
    return row[0], snapshots.place(db.execute, row[0], json.loads(row[1])["files"][0])


def _changed(db: sqlite3.Connection) -> None:
    """Other processes keep latencies and gates in memory as long as the version stays."""
    db.execute("UPDATE control SET version = version + 1")


def _must_change(cursor: sqlite3.Cursor, what: str) -> None:
    if cursor.rowcount < 1:
        raise NotFound(f"There is no {what} in this datacenter.")


def _call(name: str) -> str:
    """A mistyped call would be a fault that never comes."""
    if name != "*" and not any(name in (call, call.partition(".")[2]) for call in CALLS):
        raise Invalid(f"{name!r} is no driver call. Known: {', '.join(CALLS)}, and *.")
    return name


def _name(name: str) -> str:
    """Names stand in URIs and paths."""
    if not name or "/" in name or os.sep in name:
        raise Invalid(f"{name!r} cannot name a host, datastore or switch.")
    return name
