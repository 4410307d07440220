"""The datacenter's file: its schema, and the one way in for a driver's call.

A call is one transaction: it is logged, may be made to fail, and takes effect, or none of it happened. So
the file is right after a `kill -9` at any moment, and the log tells exactly what was done, in order. Waiting
(a gate, a latency) happens before the transaction and holds no lock.

One connection per process and file, used by one thread at a time: SQLite lets one writer in anyway, and
threads that queue on a lock of ours wake at once, while SQLite's own busy handler sleeps.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import vdc.errors
from vdc.errors import Busy, DriverFailure, HostUnreachable, Invalid, TimedOut, VdcError

BUSY_TIMEOUT_S = 30.0
POLL_S = 0.002

CALLS = (
    "hypervisor.read_facts",
    "hypervisor.read_domains",
    "hypervisor.read_domain",
    "hypervisor.read_counters",
    "hypervisor.read_use",
    "hypervisor.ensure_defined",
    "hypervisor.ensure_started",
    "hypervisor.ensure_shut_down",
    "hypervisor.ensure_stopped",
    "hypervisor.ensure_paused",
    "hypervisor.ensure_suspended",
    "hypervisor.reboot",
    "hypervisor.reset",
    "hypervisor.read_vnc",
    "hypervisor.open_console",
    "hypervisor.ensure_migrated",
    "hypervisor.ensure_settled",
    "hypervisor.read_shape",
    "hypervisor.ensure_shape",
    "hypervisor.ensure_disk_grown",
    "hypervisor.grow_root",
    "hypervisor.read_devices",
    "hypervisor.ensure_attached",
    "hypervisor.ensure_detached",
    "hypervisor.refresh_seed",
    "hypervisor.run_in_guest",
    "hypervisor.read_snapshots",
    "hypervisor.ensure_snapshot",
    "hypervisor.ensure_reverted",
    "hypervisor.ensure_snapshot_removed",
    "hypervisor.ensure_removed",
    "datastore.read_use",
    "datastore.read_files",
    "datastore.ensure_writable",
    "datastore.ensure_image",
    "datastore.ensure_image_from",
    "datastore.read_image",
    "datastore.ensure_renamed",
    "datastore.ensure_disk",
    "datastore.ensure_disk_from",
    "datastore.ensure_seed",
    "datastore.ensure_removed",
    "datastore.check_disk",
    "datastore.bring_disk",
    "datastore.read_sha256",
    "network.ensure_network",
    "network.ensure_ports",
    "network.read_unguarded",
    "network.read_ports",
    "network.ensure_ports_removed",
    "network.ensure_peers",
    "network.read_peers_amiss",
    "cloud.check_image",
    "cloud.ensure_launched",
    "cloud.read_instances",
    "cloud.find_instances",
    "cloud.read_instance",
    "cloud.ensure_terminated",
)
"""Names of calls in the log; faults, latencies and gates also take the part after the dot, or `*` for all."""

SCHEMA = """
CREATE TABLE control(version INTEGER NOT NULL, seed INTEGER NOT NULL);
CREATE TABLE hosts(
    name TEXT PRIMARY KEY, host_uuid TEXT NOT NULL, arch TEXT NOT NULL, domain_types TEXT NOT NULL,
    vcpu INTEGER NOT NULL, memory_mib INTEGER NOT NULL, load_1m REAL NOT NULL,
    hypervisor_version TEXT NOT NULL, cpu_model TEXT NOT NULL, up INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID;
CREATE TABLE datastores(
    name TEXT PRIMARY KEY, shared INTEGER NOT NULL, disk_format TEXT NOT NULL, capacity_mib INTEGER NOT NULL,
    writable INTEGER NOT NULL DEFAULT 1) WITHOUT ROWID;
-- host is '' for a file of a shared datastore.
CREATE TABLE files(
    datastore TEXT NOT NULL, host TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    virtual_mib INTEGER NOT NULL DEFAULT 0, backing TEXT NOT NULL DEFAULT '', checksum BLOB,
    PRIMARY KEY (datastore, host, name)) WITHOUT ROWID;
CREATE TABLE file_use(
    datastore TEXT NOT NULL, host TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (datastore, host)) WITHOUT ROWID;
CREATE TRIGGER file_added AFTER INSERT ON files BEGIN
    INSERT INTO file_use VALUES (new.datastore, new.host, new.size)
        ON CONFLICT DO UPDATE SET bytes = bytes + new.size; END;
CREATE TRIGGER file_removed AFTER DELETE ON files BEGIN
    UPDATE file_use SET bytes = bytes - old.size WHERE datastore = old.datastore AND host = old.host; END;
CREATE TRIGGER file_resized AFTER UPDATE OF size ON files BEGIN
    UPDATE file_use SET bytes = bytes + new.size - old.size
        WHERE datastore = new.datastore AND host = new.host; END;
-- What a guest wrote last, on a disk and in its memory; and what snapshots keep of it, inside the disk.
CREATE TABLE disk_content(
    datastore TEXT NOT NULL, host TEXT NOT NULL, file TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (datastore, host, file)) WITHOUT ROWID;
CREATE TABLE memory_content(
    host TEXT NOT NULL, domain TEXT NOT NULL, content TEXT NOT NULL,
    PRIMARY KEY (host, domain)) WITHOUT ROWID;
CREATE TABLE snapshots(
    datastore TEXT NOT NULL, host TEXT NOT NULL, file TEXT NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
    size_mib INTEGER NOT NULL, disk TEXT NOT NULL, memory TEXT NOT NULL,
    PRIMARY KEY (datastore, host, file, id)) WITHOUT ROWID;
-- What is wrong inside a file.
CREATE TABLE damage(
    datastore TEXT NOT NULL, host TEXT NOT NULL, file TEXT NOT NULL, problem TEXT NOT NULL,
    PRIMARY KEY (datastore, host, file)) WITHOUT ROWID;
-- What a router's seed says of it, and what the guest has made of that: only the digest.
CREATE TABLE router_seeds(
    datastore TEXT NOT NULL, host TEXT NOT NULL, file TEXT NOT NULL, said TEXT NOT NULL,
    PRIMARY KEY (datastore, host, file)) WITHOUT ROWID;
CREATE TABLE routers(domain TEXT PRIMARY KEY, said TEXT NOT NULL) WITHOUT ROWID;
CREATE TRIGGER content_removed AFTER DELETE ON files BEGIN
    DELETE FROM disk_content WHERE datastore = old.datastore AND host = old.host AND file = old.name;
    DELETE FROM damage WHERE datastore = old.datastore AND host = old.host AND file = old.name;
    DELETE FROM router_seeds WHERE datastore = old.datastore AND host = old.host AND file = old.name;
    DELETE FROM snapshots WHERE datastore = old.datastore AND host = old.host AND file = old.name; END;
CREATE TABLE switches(
    name TEXT PRIMARY KEY, vlan INTEGER NOT NULL, tunnels INTEGER NOT NULL) WITHOUT ROWID;
-- Where a host's tunnels lead to.
CREATE TABLE peers(
    host TEXT NOT NULL, switch TEXT NOT NULL, peer TEXT NOT NULL,
    PRIMARY KEY (host, switch, peer)) WITHOUT ROWID;
CREATE TABLE uplinks(host TEXT NOT NULL, switch TEXT NOT NULL, PRIMARY KEY (host, switch)) WITHOUT ROWID;
CREATE TABLE networks(
    host TEXT NOT NULL, switch TEXT NOT NULL, vlan_id INTEGER NOT NULL,
    PRIMARY KEY (host, switch, vlan_id)) WITHOUT ROWID;
-- rules: VLAN, MAC and address that a port is for; empty where it passes nothing.
CREATE TABLE ports(
    host TEXT NOT NULL, device TEXT NOT NULL, switch TEXT NOT NULL, rules TEXT NOT NULL,
    PRIMARY KEY (host, device)) WITHOUT ROWID;
-- state 'incoming': the destination's copy of a machine that migrates; its guest does not run.
CREATE TABLE domains(
    host TEXT NOT NULL, name TEXT NOT NULL, uuid TEXT NOT NULL, vm_id TEXT NOT NULL, site TEXT NOT NULL,
    state TEXT NOT NULL, spec TEXT NOT NULL, PRIMARY KEY (host, name)) WITHOUT ROWID;
CREATE UNIQUE INDEX domain_uuid ON domains(host, uuid);
-- What domains that run have; of others, their description says it. And guests that give nothing back.
CREATE TABLE shapes(
    host TEXT NOT NULL, domain TEXT NOT NULL, vcpu INTEGER NOT NULL, min_vcpu INTEGER NOT NULL,
    max_vcpu INTEGER NOT NULL, memory_mib INTEGER NOT NULL, max_memory_mib INTEGER NOT NULL,
    PRIMARY KEY (host, domain)) WITHOUT ROWID;
CREATE TABLE rigid(domain TEXT PRIMARY KEY) WITHOUT ROWID;
-- Files and MACs of what is plugged into domains that run; of others, their description says it.
CREATE TABLE devices(
    host TEXT NOT NULL, domain TEXT NOT NULL, device TEXT NOT NULL,
    PRIMARY KEY (host, domain, device)) WITHOUT ROWID;
-- Guests that do not listen to the power button, and how often each was booted.
CREATE TABLE deaf(domain TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE boots(domain TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID;
-- A cloud is in `hosts` too: it answers, or does not, as one does.
CREATE TABLE instances(
    cloud TEXT NOT NULL, id TEXT NOT NULL, token TEXT NOT NULL, spec TEXT NOT NULL, type TEXT NOT NULL,
    zone TEXT NOT NULL, state TEXT NOT NULL, address TEXT NOT NULL, vm_id TEXT NOT NULL, site TEXT NOT NULL,
    PRIMARY KEY (cloud, id)) WITHOUT ROWID;
CREATE UNIQUE INDEX instance_token ON instances(cloud, token);
-- Since the domain's last start; none yet: all zero.
CREATE TABLE counters(
    host TEXT NOT NULL, domain TEXT NOT NULL, cpu_s REAL NOT NULL,
    disk_read_bytes INTEGER NOT NULL, disk_write_bytes INTEGER NOT NULL,
    net_rx_bytes INTEGER NOT NULL, net_tx_bytes INTEGER NOT NULL, PRIMARY KEY (host, domain)) WITHOUT ROWID;
CREATE TABLE latencies(
    call TEXT NOT NULL, host TEXT NOT NULL, seconds REAL NOT NULL, jitter REAL NOT NULL,
    PRIMARY KEY (call, host)) WITHOUT ROWID;
CREATE TABLE faults(
    id INTEGER PRIMARY KEY, call TEXT NOT NULL, host TEXT NOT NULL, at INTEGER, times INTEGER NOT NULL,
    error TEXT NOT NULL, moment TEXT NOT NULL);
CREATE TABLE holds(
    id INTEGER PRIMARY KEY, call TEXT NOT NULL, host TEXT NOT NULL, skip INTEGER NOT NULL,
    deadline_s REAL NOT NULL);
CREATE TABLE held(
    id INTEGER PRIMARY KEY, hold INTEGER NOT NULL, pid INTEGER NOT NULL, host TEXT NOT NULL,
    call TEXT NOT NULL, subject TEXT NOT NULL);
-- AUTOINCREMENT: a call's number stays its own when the log is emptied.
CREATE TABLE log(
    n INTEGER PRIMARY KEY AUTOINCREMENT, host TEXT NOT NULL, call TEXT NOT NULL, subject TEXT NOT NULL,
    pid INTEGER NOT NULL, time REAL NOT NULL, error TEXT NOT NULL DEFAULT '');
"""


def uri(path: Path, kind: str, name: str) -> str:
    """`simulated:///abs/path/dc.db?host=h1`; `kind` is `host`, `datastore`, `switch` or `cloud`."""
    return f"simulated://{quote(str(path.resolve()))}?{kind}={quote(name)}"


def parse_uri(text: str, kind: str) -> tuple[Path, str]:
    """The file and the name in a `simulated:` URI. Raises Invalid for any other."""
    parts = urlsplit(text)
    names = parse_qs(parts.query).get(kind, [])
    if parts.scheme != "simulated" or parts.netloc or not parts.path.startswith("/") or len(names) != 1:
        raise Invalid(f"{text!r} is not of the form simulated:///path/of/file.db?{kind}=NAME.")
    return Path(unquote(parts.path)), names[0]


@dataclass(frozen=True)
class _Control:
    """Latencies and gates as read at `version`; faults are looked up where they are consumed."""

    version: int
    seed: int
    latencies: dict[tuple[str, str], tuple[float, float]]
    holds: bool
    faults: bool

    def latency(self, host: str, call: str, subject: str) -> float:
        """Seconds this call takes: the most specific setting, and a jitter that depends on the call alone."""
        for key in _keys(call):
            for where in (host, ""):
                if found := self.latencies.get((key, where)):
                    seconds, jitter = found
                    draw = zlib.crc32(f"{self.seed}/{host}/{call}/{subject}".encode()) / 2**31 - 1
                    return max(0.0, seconds + jitter * draw)
        return 0.0


def _keys(call: str) -> tuple[str, str, str]:
    """The names under which a call may have been addressed, the most specific first."""
    return call, call.partition(".")[2], "*"


class Call:
    """A driver's call while it takes effect."""

    def __init__(self, datacenter: Datacenter, host: str, name: str, fault: tuple[str, str] | None) -> None:
        self._datacenter = datacenter
        self._host = host
        self._name = name
        self._fault = fault

    def execute(self, sql: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        return self._datacenter.connection.execute(sql, values)

    def one(self, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """The first row, or None."""
        return self.execute(sql, values).fetchone()

    def failure(self, message: str) -> DriverFailure:
        return DriverFailure(f"{self._host}: {message}", host=self._host, command=self._name, stderr=message)

    def fail_if(self, moment: str) -> None:
        """Raise the injected fault if it is due at this moment: `before`, `halfway` or `after`."""
        if self._fault and self._fault[1] == moment:
            error, _ = self._fault
            message = f"{self._host}: simulated fault {moment} {self._name}."
            if error == "DriverFailure":
                raise DriverFailure(message, host=self._host, command=self._name, stderr="simulated fault")
            kind = getattr(vdc.errors, error)
            assert issubclass(kind, VdcError)
            raise kind(message)

    def has_fault(self, moment: str) -> bool:
        return bool(self._fault and self._fault[1] == moment)

    @contextmanager
    def outside(self) -> Iterator[None]:
        """Make what was done so far visible, and let others work while the body runs."""
        self._datacenter.commit()
        try:
            yield
        finally:
            self._datacenter.begin()


class Datacenter:
    """One process's way to a datacenter's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # mode=rw: a mistyped path is an error, not a new empty datacenter.
            self.connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
            # OFF: a killed process loses nothing, only a power cut would.
            self.connection.execute("PRAGMA synchronous=OFF")
            self.connection.execute("SELECT version FROM control").fetchone()
        except sqlite3.Error as error:
            raise HostUnreachable(
                f"{path} is not a simulated datacenter ({error}): create it first."
            ) from error
        self._lock = threading.Lock()
        self._control: _Control | None = None

    def begin(self) -> None:
        self._lock.acquire()
        try:
            self.connection.execute("BEGIN IMMEDIATE")
        except BaseException as error:
            self._lock.release()
            if isinstance(error, sqlite3.OperationalError):
                raise Busy(f"{self.path}: {error}.") from error
            raise

    def commit(self) -> None:
        self._end("COMMIT")

    def rollback(self) -> None:
        self._end("ROLLBACK")

    def _end(self, how: str) -> None:
        try:
            self.connection.execute(how)
        finally:
            self._lock.release()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """For the simulation's control: no host, no log, no fault."""
        self.begin()
        try:
            yield self.connection
        except BaseException:
            self.rollback()
            raise
        self.commit()

    @contextmanager
    def call(self, host: str, name: str, subject: str, timeout_s: float) -> Iterator[Call]:
        """Wait as long as the simulation says, then run the body as one transaction.

        An error of ours raised by the body keeps what was written before it (a call that fails halfway leaves
        something behind); any other exception undoes the body.
        """
        deadline = time.monotonic() + timeout_s
        control = self._begin(host, name)
        if control.holds and self._hold(host, name, subject):
            control = self._begin(host, name)
        if latency := control.latency(host, name, subject):
            self.rollback()
            time.sleep(min(latency, max(0.0, deadline - time.monotonic())))
            if latency >= timeout_s:
                raise TimedOut(f"{host}: {name} {subject} did not answer within {timeout_s:g} s.")
            control = self._begin(host, name)
        try:
            number = self.connection.execute(
                "INSERT INTO log(host, call, subject, pid, time) VALUES (?, ?, ?, ?, ?)",
                (host, name, subject, os.getpid(), time.monotonic()),
            ).lastrowid
            fault = self._take_fault(host, name, number) if control.faults else None
            call = Call(self, host, name, fault)
            try:
                call.fail_if("before")
                yield call
                call.fail_if("after")
            except VdcError as error:
                self.connection.execute(
                    "UPDATE log SET error = ? WHERE n = ?", (type(error).__name__, number)
                )
                raise
        except VdcError:
            self.commit()
            raise
        except BaseException:
            self.rollback()
            raise
        self.commit()

    def _begin(self, host: str, call: str) -> _Control:
        """Open the transaction of a call, if the host can be reached."""
        self.begin()
        try:
            row = self.connection.execute(
                "SELECT version, (SELECT up FROM hosts WHERE name = ?) FROM control", (host,)
            ).fetchone()
            if not row[1]:
                why = "it is down" if row[1] == 0 else "there is no such host"
                raise HostUnreachable(f"{host}: cannot be reached for {call}: {why} in {self.path}.")
            if self._control is None or self._control.version != row[0]:
                self._control = self._read_control()
            return self._control
        except BaseException:
            self.rollback()
            raise

    def _read_control(self) -> _Control:
        version, seed, holds, faults = self.connection.execute(
            "SELECT version, seed, EXISTS (SELECT 1 FROM holds), EXISTS (SELECT 1 FROM faults) FROM control"
        ).fetchone()
        latencies = {
            (call, host): (seconds, jitter)
            for call, host, seconds, jitter in self.connection.execute("SELECT * FROM latencies")
        }
        return _Control(version, seed, latencies, bool(holds), bool(faults))

    def _take_fault(self, host: str, call: str, number: int | None) -> tuple[str, str] | None:
        """Consume the oldest fault for this call: its error and moment."""
        row = self.connection.execute(
            "SELECT id, times, error, moment FROM faults WHERE call IN (?, ?, ?) AND host IN ('', ?)"
            " AND (at IS NULL OR at = ?) ORDER BY at IS NULL, id LIMIT 1",
            (*_keys(call), host, number),
        ).fetchone()
        if row is None:
            return None
        fault, times, error, moment = row
        if times > 1:
            self.connection.execute("UPDATE faults SET times = times - 1 WHERE id = ?", (fault,))
        else:
            self.connection.execute("DELETE FROM faults WHERE id = ?", (fault,))
            self.connection.execute("UPDATE control SET version = version + 1")
        return error, moment

    def _hold(self, host: str, call: str, subject: str) -> bool:
        """Stand at this call's gate until it opens; False, and still in the transaction, if there is none.

        The row in `held` outlives a killed process: it says where it was stopped, until the gate is released.
        """
        hold = self.connection.execute(
            "SELECT id, skip, deadline_s FROM holds WHERE call IN (?, ?, ?) AND host IN ('', ?)"
            " ORDER BY id LIMIT 1",
            (*_keys(call), host),
        ).fetchone()
        if hold is None:
            return False
        gate, skip, deadline_s = hold
        if skip:
            self.connection.execute("UPDATE holds SET skip = skip - 1 WHERE id = ?", (gate,))
            return False
        self.connection.execute(
            "INSERT INTO held(hold, pid, host, call, subject) VALUES (?, ?, ?, ?, ?)",
            (gate, os.getpid(), host, call, subject),
        )
        self.commit()
        deadline = time.monotonic() + deadline_s
        while self._is_shut(gate):
            if time.monotonic() > deadline:
                raise TimedOut(f"{host}: {call} {subject} was held for {deadline_s:g} s and never released.")
            time.sleep(POLL_S)
        return True

    def _is_shut(self, gate: int) -> bool:
        with self._lock:
            return self.connection.execute("SELECT 1 FROM holds WHERE id = ?", (gate,)).fetchone() is not None


_open: dict[Path, Datacenter] = {}
_open_lock = threading.Lock()
_inherited: list[object] = []


def datacenter(path: Path) -> Datacenter:
    """This process's connection to the file. Raises HostUnreachable where there is no datacenter."""
    with _open_lock:
        found = _open.get(path)
        if found is None:
            found = _open[path] = Datacenter(path)
        return found


def close(path: Path) -> None:
    """Forget the connection (the file is about to be deleted)."""
    with _open_lock:
        found = _open.pop(path, None)
    if found:
        found.connection.close()


def _after_fork() -> None:
    """A connection must not be used, nor even closed, in a forked child: keep the parent's out of reach."""
    global _open, _open_lock
    _inherited.append(_open)
    _open = {}
    _open_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
