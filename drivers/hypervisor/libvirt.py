"""A host's domains through libvirt: `qemu+ssh://root@h1/system`.

libvirt's calls have no deadline of their own. Three things bound them here: keep-alive messages, answered
by the host's daemon and watched by an event-loop thread, so that a dead host breaks its connection after
`KEEPALIVE_S * KEEPALIVE_COUNT` seconds; a disposable thread around every call; and the SSH client's own
limits while connecting.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import libvirt
from lxml import etree

from drivers import registry
from drivers import ssh as ssh_module
from drivers.contract import Access, HypervisorCapabilities
from drivers.deadline import within
from drivers.hypervisor import agent, devices, domain_xml, migration, power, shape, snapshots
from drivers.hypervisor.console import LibvirtConsole
from drivers.ssh import Ssh
from vdc.errors import (
    Busy,
    DriverFailure,
    HostUnreachable,
    InvalidState,
    NotFound,
    TimedOut,
    Unsupported,
    VdcError,
)
from vdc.model import (
    UNTUNED,
    DeviceAttachment,
    DevicesSeen,
    DomainCounters,
    DomainSeen,
    DomainSpec,
    HostFacts,
    HostRef,
    HostUse,
    MigrationResult,
    MigrationTuning,
    ShapeSeen,
    SnapshotSeen,
    SnapshotSpec,
    VncEndpoint,
    domain_name,
)

T = TypeVar("T")

KEEPALIVE_S = 5
KEEPALIVE_COUNT = 3

WATCH_S = 0.2
"""How often a migration is looked at."""

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "running",
    libvirt.VIR_DOMAIN_SHUTOFF: "stopped",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "paused",
}

_UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)

_GONE = {libvirt.VIR_ERR_NO_DOMAIN}
_BUSY = {libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_ERR_RESOURCE_BUSY, libvirt.VIR_ERR_AGENT_UNRESPONSIVE}
_BROKEN = {
    libvirt.VIR_ERR_RPC,
    libvirt.VIR_ERR_NO_CONNECT,
    libvirt.VIR_ERR_INVALID_CONN,
    libvirt.VIR_ERR_AUTH_FAILED,
    libvirt.VIR_ERR_AUTH_CANCELLED,
    libvirt.VIR_ERR_AUTH_UNAVAILABLE,
}


def translate(error: libvirt.libvirtError, host: str, what: str) -> VdcError:
    """What a libvirt error means to us, by its code and the part of libvirt that it comes from."""
    code, origin = error.get_error_code(), error.get_error_domain()
    text = (error.get_error_message() or str(error)).strip().rstrip(".")
    message = f"{host}: {what} failed: {text}."
    if code in _BROKEN or origin in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
        return HostUnreachable(f"The connection to libvirt on {host} failed during {what}: {text}.")
    if code in _BUSY or error.get_int1() == errno.EBUSY:
        return Busy(message)
    if code in _GONE:
        return NotFound(message)
    if code == libvirt.VIR_ERR_OPERATION_INVALID:
        return InvalidState(message)
    if code == libvirt.VIR_ERR_NO_SUPPORT:
        return Unsupported(message)
    return DriverFailure(message, host=host, command=what, stderr=text)


CAPABILITIES = HypervisorCapabilities(live_migration=True, snapshots=True)


class LibvirtHypervisor:
    """One connection to one host's libvirt, opened when first needed and again when it broke.

    Safe to use from several threads: libvirt carries several calls at once on a connection.
    """

    capabilities = CAPABILITIES

    def __init__(self, host: HostRef, access: Access, ssh: Ssh | None) -> None:
        """`ssh` reaches the same host; None for URIs without one (libvirt's own test driver)."""
        self._host = host
        self._access = access
        self._ssh = ssh
        self._conn: libvirt.virConnect | None = None
        self._opening = threading.Lock()
        self._idle: deque[libvirt.virConnect] = deque()
        """Connections for calls that take long, kept for the next one: opening one costs an SSH session."""
        self._owners: dict[str, domain_xml.Owner] = {}
        _all.add(self)

    def read_facts(self) -> HostFacts:
        def read(conn: libvirt.virConnect) -> HostFacts:
            capabilities = etree.fromstring(conn.getCapabilities())
            guests = capabilities.findall(f"guest[os_type='hvm']/arch[@name='{self._host.arch}']/domain")
            types = {guest.get("type", "") for guest in guests}
            return HostFacts(
                hostname=conn.getHostname(),
                host_uuid=capabilities.findtext("host/uuid", ""),
                arch=capabilities.findtext("host/cpu/arch", ""),
                domain_types=tuple(sorted(types)),
                vcpu=conn.getInfo()[2],
                # getInfo() has a memory size too, but reports a wrong one on some machines.
                memory_mib=conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"] // 1024,
                load_1m=load,
                hypervisor_version=f"{conn.getType()} {_version(conn.getVersion())}, "
                f"libvirt {_version(conn.getLibVersion())}",
                cpu_model=capabilities.findtext("host/cpu/model", ""),
            )

        load = self._read_load()
        return self._call("reading its facts", read)

    def read_use(self) -> HostUse:
        def read(conn: libvirt.virConnect) -> HostUse:
            cpu = conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS, 0)
            memory = conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            free = memory["free"] + memory.get("buffers", 0) + memory.get("cached", 0)
            waiting = cpu.get("idle", 0) + cpu.get("iowait", 0)
            return HostUse(
                load_1m=load,
                machines=conn.numOfDomains(),
                cpu_busy_s=(sum(cpu.values()) - waiting) / 1e9,
                cpu_total_s=sum(cpu.values()) / 1e9,
                memory_used_mib=(memory["total"] - free) / 1024,
                memory_mib=memory["total"] / 1024,
            )

        load = self._read_load()
        return self._call("reading how busy it is", read)

    def read_domains(self) -> list[DomainSeen]:
        def read(conn: libvirt.virConnect) -> list[DomainSeen]:
            # One call for all states; our metadata costs one more for each domain not seen before.
            seen = conn.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
            uuids = {domain.UUIDString() for domain, _ in seen}
            for uuid in self._owners.keys() - uuids:
                self._owners.pop(uuid, None)
            saved = {
                d.UUIDString() for d in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
            }
            return [
                self._seen(
                    domain, (stats["state.state"], stats["state.reason"]), domain.UUIDString() in saved
                )
                for domain, stats in seen
            ]

        return self._call("listing its domains", read)

    def read_domain(self, name: str) -> DomainSeen | None:
        def read(conn: libvirt.virConnect) -> DomainSeen | None:
            domain = _lookup(conn, name)
            if domain is None:
                return None
            try:
                return self._seen(domain, domain.state(), bool(domain.hasManagedSaveImage(0)))
            except libvirt.libvirtError as error:
                if error.get_error_code() in _GONE:
                    return None
                raise

        return self._call(f"reading domain {name}", read)

    def read_counters(self) -> list[DomainCounters]:
        wanted = libvirt.VIR_DOMAIN_STATS_CPU_TOTAL | libvirt.VIR_DOMAIN_STATS_BLOCK
        wanted |= libvirt.VIR_DOMAIN_STATS_INTERFACE

        def read(conn: libvirt.virConnect) -> list[DomainCounters]:
            told = conn.getAllDomainStats(wanted, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
            # One that ended meanwhile tells nothing: zeros of it would look like a new start.
            return [self._counters(domain, stats) for domain, stats in told if "cpu.time" in stats]

        return self._call("reading its counters", read)

    def ensure_defined(self, spec: DomainSpec) -> bool:
        xml = domain_xml.build(spec)

        def ensure(conn: libvirt.virConnect) -> bool:
            domain = _lookup(conn, spec.name)
            if domain is not None:
                if domain.UUIDString() != spec.vm_id.lower():
                    raise DriverFailure(
                        f"{self._host.name}: a domain {spec.name} exists there which is not ours.",
                        host=self._host.name,
                    )
                # A domain that runs has a second description, of what it was started with.
                owner = _read_owner(domain, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
                if owner is not None and owner.spec == domain_xml.spec_hash(xml):
                    return False
            conn.defineXMLFlags(xml, 0)
            self._owners.pop(spec.vm_id.lower(), None)
            return True

        return self._call(f"defining domain {spec.name}", ensure)

    def ensure_started(self, name: str, *, paused: bool = False) -> bool:
        """Start the domain. One that is paused is resumed, unless it was to be started paused."""

        def ensure(conn: libvirt.virConnect) -> bool:
            domain = conn.lookupByName(name)
            try:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)
                return True
            except libvirt.libvirtError:
                # "It runs already" has different codes in different libvirt drivers: look.
                state = domain.state()[0]
                if state == libvirt.VIR_DOMAIN_PAUSED and not paused:
                    power.resume(domain, self._host.name)
                    return True
                if _STATES.get(state) in ("running", "paused"):
                    return False
                raise

        return self._call(f"starting domain {name}", ensure)

    def ensure_shut_down(self, name: str, *, timeout_s: float) -> bool:
        return power.ensure_shut_down(self._call, name, timeout_s)

    def ensure_stopped(self, name: str) -> bool:
        return self._call(f"powering off {name}", lambda conn: power.ensure_stopped(conn, name))

    def ensure_paused(self, name: str) -> bool:
        return self._call(f"pausing {name}", lambda conn: power.ensure_paused(conn, name, self._host.name))

    def ensure_suspended(self, name: str, *, timeout_s: float) -> bool:
        return power.ensure_suspended(
            self._call,
            lambda: self._open(self._access.connect_timeout_s),
            name,
            self._host.name,
            timeout_s,
        )

    def reboot(self, name: str, *, timeout_s: float) -> bool:
        return power.reboot(self._call, name, self._host.name, timeout_s)

    def reset(self, name: str) -> None:
        self._call(f"resetting {name}", lambda conn: power.reset(conn, name, self._host.name))

    def read_vnc(self, name: str) -> VncEndpoint:
        return self._call(
            f"reading the screen of {name}", lambda conn: power.read_vnc(conn, name, self._host.name)
        )

    def open_console(
        self,
        name: str,
        on_output: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        force: bool = False,
    ) -> LibvirtConsole:
        return self._call(
            f"attaching to the console of {name}",
            lambda conn: LibvirtConsole(conn, name, on_output, on_end, force=force),
        )

    def ensure_migrated(
        self,
        name: str,
        destination: HostRef,
        *,
        tuning: MigrationTuning = UNTUNED,
        progress: Callable[[int, int], None] | None = None,
        copy: Sequence[int] = (),
        timeout_s: float,
    ) -> MigrationResult:
        peer = _peer(destination, self._access)
        here, there = self._look(name), peer._look(name)
        deadline = time.monotonic() + timeout_s
        if here is not None and here.busy:
            # A client before us began it, and is gone; libvirt goes on.
            self._await_migration(name, peer, deadline, progress)
            here, there = self._look(name), peer._look(name)
        if there is not None and there.running and (here is None or not here.running):
            return peer._read_migration(name)
        if here is None or not here.running:
            raise DriverFailure(
                f"{self._host.name}: domain {name} does not run there: it cannot be migrated.",
                host=self._host.name,
            )
        self._migrate(name, destination, tuning, copy, deadline, progress)
        return peer._read_migration(name)

    def ensure_settled(self, name: str, destination: HostRef, *, timeout_s: float) -> MigrationResult | None:
        peer = _peer(destination, self._access)
        self._await_migration(name, peer, time.monotonic() + timeout_s, None)
        verdict = self._judge(name, peer)
        # What is removed is looked at twice: a host may have been about to say something else.
        if verdict.remove and self._judge(name, peer) == verdict:
            (self if verdict.moved else peer).ensure_removed(name)
        if verdict.resume:
            self.ensure_started(name)
        return peer._read_migration(name) if verdict.moved else None

    def _look(self, name: str) -> migration.Standing | None:
        return self._call(f"looking at domain {name}", lambda conn: migration.look(conn, name))

    def _judge(self, name: str, peer: LibvirtHypervisor) -> migration.Verdict:
        verdict = migration.judge(self._look(name), peer._look(name))
        if verdict is None:
            raise DriverFailure(
                f"{self._host.name}: domain {name} runs there and on {peer._host.name}: "
                "stop one of them by hand.",
                host=self._host.name,
            )
        return verdict

    def _read_migration(self, name: str) -> MigrationResult:
        return self._call(f"reading what became of {name}", lambda conn: migration.read_result(conn, name))

    def _migrate(
        self,
        name: str,
        destination: HostRef,
        tuning: MigrationTuning,
        copy: Sequence[int],
        deadline: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Have libvirt migrate the domain, and watch it. At the deadline it is aborted."""
        what = f"migrating {name} to {destination.name}"
        uri = migration.peer_uri(destination, self._access.peer_scheme)
        failures: list[libvirt.libvirtError] = []
        # A connection of its own: until the call returns, others on the same one would wait (measured).
        conn = self._take_connection()
        aborted = False

        def run() -> None:
            try:
                for tries_left in reversed(range(migration.TRIES)):
                    try:
                        return migration.start(conn.lookupByName(name), uri, destination, tuning, copy)
                    except libvirt.libvirtError as error:
                        if aborted or not tries_left or not migration.hides_what_the_peer_said(error, conn):
                            return failures.append(error)
            finally:
                self._idle.append(conn)

        thread = threading.Thread(target=run, name=what, daemon=True)
        thread.start()
        while True:
            thread.join(WATCH_S)
            if not thread.is_alive():
                break
            self._report(name, progress)
            if time.monotonic() < deadline:
                continue
            if aborted:
                raise TimedOut(f"{self._host.name}: {what} did not end, not even when it was aborted.")
            aborted = True
            deadline = time.monotonic() + self._access.call_timeout_s
            self._abort(name)
        if failures:
            error = translate(failures[0], self._host.name, what)
            if aborted:
                error = DriverFailure(
                    f"{self._host.name}: {what} took too long and was aborted (setting migration_timeout_s).",
                    host=self._host.name,
                    command=what,
                    stderr=str(failures[0]),
                )
            raise error from failures[0]

    def _await_migration(
        self,
        name: str,
        peer: LibvirtHypervisor,
        deadline: float,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Wait until no migration is under way on either host. At the deadline it is aborted.

        The source is looked at last: it is the one that lets go last.
        """
        aborted = False
        while any(
            standing is not None and standing.busy for standing in (peer._look(name), self._look(name))
        ):
            self._report(name, progress)
            if time.monotonic() >= deadline:
                if aborted:
                    raise TimedOut(
                        f"{self._host.name}: the migration of {name} does not end, not even aborted."
                    )
                aborted = True
                deadline = time.monotonic() + self._access.call_timeout_s
                self._abort(name)
            time.sleep(WATCH_S)

    def _report(self, name: str, progress: Callable[[int, int], None] | None) -> None:
        """How far it is, if the host says so: it may have ended, or be unreachable for a while."""
        if progress is None:
            return
        with contextlib.suppress(VdcError):
            stats = self._call(
                f"watching the migration of {name}", lambda conn: conn.lookupByName(name).jobStats()
            )
            # Disks that are copied are counted apart from the memory.
            total = stats.get("memory_total", 0) + stats.get("disk_total", 0)
            left = stats.get("memory_remaining", 0) + stats.get("disk_remaining", 0)
            if total:
                progress(total - left, total)

    def _abort(self, name: str) -> None:
        # Too late, or there is no such job any more: what then is, is looked at anyway.
        with contextlib.suppress(InvalidState, NotFound, DriverFailure):
            self._call(f"aborting the migration of {name}", lambda conn: conn.lookupByName(name).abortJob())

    def read_shape(self, spec: DomainSpec) -> ShapeSeen:
        return self._call(
            f"reading what {spec.name} has",
            lambda conn: shape.read(conn.lookupByName(spec.name), [disk.index for disk in spec.disks]),
        )

    def ensure_shape(self, spec: DomainSpec, *, timeout_s: float) -> ShapeSeen:
        if self.read_shape(spec).running:
            shape.plug(self._snapshot_call, spec.name, spec.vcpu, timeout_s)
            shape.balloon(self._snapshot_call, spec.name, spec.memory_mib, timeout_s)
        return self.read_shape(spec)

    def ensure_disk_grown(self, spec: DomainSpec, index: int, size_mib: int) -> bool:
        def grow(conn: libvirt.virConnect) -> bool | None:
            domain = _lookup(conn, spec.name)
            if domain is None or not domain.isActive():
                return None
            return shape.grow_running(domain, index, size_mib)

        grown = self._snapshot_call(f"growing a disk of {spec.name}", grow)
        return shape.grow_file(self._shell, spec, index, size_mib) if grown is None else grown

    def grow_root(self, name: str, *, timeout_s: float) -> str:
        return agent.grow_root(self._call, name, timeout_s)

    def read_devices(self, name: str) -> DevicesSeen:
        return self._call(
            f"reading the devices of {name}", lambda conn: devices.read(conn.lookupByName(name))
        )

    def ensure_attached(self, name: str, device: DeviceAttachment) -> bool:
        return self._snapshot_call(
            f"plugging a device into {name}", lambda conn: devices.plug(conn, name, device)
        )

    def ensure_detached(self, name: str, device: DeviceAttachment, *, timeout_s: float) -> bool:
        return devices.unplug(self._snapshot_call, name, device, timeout_s)

    def refresh_seed(self, spec: DomainSpec) -> None:
        self._snapshot_call(
            f"showing {spec.name} its seed anew", lambda conn: devices.refresh_seed(conn, spec)
        )

    def run_in_guest(self, name: str, command: Sequence[str], *, timeout_s: float) -> str:
        return agent.run(self._call, name, self._host.name, command, timeout_s)

    def read_snapshots(self, spec: DomainSpec) -> list[SnapshotSeen]:
        return snapshots.seen(self._kept(spec))

    def ensure_snapshot(self, spec: DomainSpec, snapshot: SnapshotSpec, *, timeout_s: float) -> bool:
        what = f"making snapshot {snapshot.snapshot_id} of {spec.name}"
        kept = self._kept(spec)
        having = [disk for disk, names in kept.items() if snapshot.snapshot_id in names]
        if kept and len(having) == len(kept):
            return False
        if having:
            self.ensure_snapshot_removed(spec, snapshot.snapshot_id)

        def take(conn: libvirt.virConnect) -> bool:
            domain = conn.lookupByName(spec.name)
            if not domain.isActive():
                return False
            if snapshot.kind == "memory":
                snapshots.take_memory(domain, snapshot)
            else:
                nodes = list(snapshots.read_running(domain, self._host.name))
                snapshots.take_disks(domain, self._host.name, nodes, snapshot)
            return True

        if not self._long_call(what, timeout_s, take):
            if snapshot.kind == "memory":
                raise DriverFailure(
                    f"{self._host.name}: {what} failed: the domain does not run, so that it has no memory.",
                    host=self._host.name,
                )
            snapshots.work_on_files(self._shell, "-c", snapshot.snapshot_id, _paths(spec), timeout_s)
        return True

    def ensure_reverted(
        self, spec: DomainSpec, snapshot: SnapshotSpec, *, start: str, timeout_s: float
    ) -> None:
        what = f"taking {spec.name} back to snapshot {snapshot.snapshot_id}"
        kept = self._kept(spec)
        having = [disk for disk, names in kept.items() if snapshot.snapshot_id in names]
        if len(having) < max(len(kept), len(spec.disks)):
            raise DriverFailure(
                f"{self._host.name}: {what} failed: {len(having)} of its {len(spec.disks)} disks have it: "
                "there is no such snapshot.",
                host=self._host.name,
            )
        if snapshot.kind == "memory":
            self._long_call(
                what,
                timeout_s,
                lambda conn: snapshots.go_back_with_memory(conn.lookupByName(spec.name), snapshot),
            )
            return

        def power_off(conn: libvirt.virConnect) -> None:
            with _already(libvirt.VIR_ERR_OPERATION_INVALID):
                conn.lookupByName(spec.name).destroy()

        self._call(f"powering off {spec.name}", power_off)
        snapshots.work_on_files(self._shell, "-a", snapshot.snapshot_id, _paths(spec), timeout_s)
        if start != "stopped":
            self.ensure_started(spec.name, paused=start == "paused")

    def ensure_snapshot_removed(self, spec: DomainSpec, snapshot_id: str) -> bool:
        def remove(conn: libvirt.virConnect) -> bool | None:
            domain = _lookup(conn, spec.name)
            if domain is None:
                return None
            # Left by a process that died while it went back to one.
            snapshots.drop_descriptions(domain)
            if not domain.isActive():
                return None
            # Whoever made it may have died while the guest's file systems were frozen.
            snapshots.thaw(domain)
            kept = snapshots.read_running(domain, self._host.name)
            having = [node for node, names in kept.items() if snapshot_id in names]
            snapshots.remove_running(domain, self._host.name, having, snapshot_id)
            return bool(having)

        removed = self._snapshot_call(f"removing snapshot {snapshot_id} of {spec.name}", remove)
        if removed is not None:
            return removed
        kept = snapshots.read_files(self._shell, _paths(spec))
        having = [path for path, names in kept.items() if snapshot_id in names]
        if having:
            snapshots.work_on_files(self._shell, "-d", snapshot_id, having)
        return bool(having)

    def _kept(self, spec: DomainSpec) -> snapshots.Kept:
        """States in each of its disks. What is being made or loaded just now is waited for (Busy)."""

        def read(conn: libvirt.virConnect) -> snapshots.Kept | None:
            domain = _lookup(conn, spec.name)
            if domain is None or not domain.isActive():
                return None
            return snapshots.read_running(domain, self._host.name)

        kept = self._snapshot_call(f"reading snapshots of {spec.name}", read)
        return snapshots.read_files(self._shell, _paths(spec)) if kept is None else kept

    @property
    def _shell(self) -> Ssh:
        if self._ssh is None:
            raise Unsupported(f"{self._host.name} is not reached by SSH: files on it cannot be worked on.")
        return self._ssh

    def _snapshot_call(self, what: str, act: Callable[[libvirt.virConnect], T]) -> T:
        """As `_call`. A domain that was started or stopped meanwhile is worth another try."""
        try:
            return self._call(what, act)
        except InvalidState as error:
            raise Busy(str(error)) from error

    def _long_call(self, what: str, timeout_s: float, act: Callable[[libvirt.virConnect], T]) -> T:
        """As `_snapshot_call`, on a connection of its own: on a shared one other calls might have to wait."""
        conn = self._open(self._access.connect_timeout_s)
        try:
            return within(timeout_s, lambda: act(conn), f"{self._host.name}: {what}")
        except libvirt.libvirtError as error:
            found = translate(error, self._host.name, what)
            raise (Busy(str(found)) if isinstance(found, InvalidState) else found) from error
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()

    def _take_connection(self) -> libvirt.virConnect:
        """One that nobody else uses: an idle one that is alive, or a new one."""
        while True:
            try:
                conn = self._idle.pop()
            except IndexError:
                return self._open(self._access.connect_timeout_s)
            with contextlib.suppress(libvirt.libvirtError):
                if conn.isAlive():
                    return conn

    def ensure_removed(self, name: str) -> bool:
        """Remove a domain of ours. Raises DriverFailure for one that is not."""

        def ensure(conn: libvirt.virConnect) -> bool:
            domain = _lookup(conn, name)
            if domain is None:
                return False
            # A domain with a name that follows from its uuid is ours without asking for its metadata.
            if name != domain_name(domain.UUIDString()) and _read_owner(domain) is None:
                raise DriverFailure(
                    f"{self._host.name}: domain {name} is not ours and stays as it is.", host=self._host.name
                )
            with _already(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                domain.destroy()
            with _already(libvirt.VIR_ERR_NO_DOMAIN):
                domain.undefineFlags(_UNDEFINE)
            return True

        return self._call(f"removing domain {name}", ensure)

    def close(self) -> None:
        """Close the connections; the next call opens a new one."""
        with self._opening:
            conns, self._conn = [self._conn, *self._idle], None
            self._idle.clear()
        for conn in conns:
            if conn is not None:
                with contextlib.suppress(libvirt.libvirtError):
                    conn.close()

    def _forget(self) -> None:
        for conn in (self._conn, *self._idle):
            if conn is not None:
                conn._o = None  # else collecting it would close it
        self._conn = None
        self._idle = deque()
        self._opening = threading.Lock()

    def _owner(self, domain: libvirt.virDomain) -> domain_xml.Owner | None:
        uuid = domain.UUIDString()
        owner = self._owners.get(uuid) or _read_owner(domain)
        if owner is not None:
            self._owners[uuid] = owner
        return owner

    def _counters(self, domain: libvirt.virDomain, stats: Mapping[str, int]) -> DomainCounters:
        def summed(group: str, name: str) -> int:
            return sum(stats.get(f"{group}.{n}.{name}", 0) for n in range(stats.get(f"{group}.count", 0)))

        owner = self._owner(domain)
        return DomainCounters(
            name=domain.name(),
            vm_id=owner.vm_id if owner else "",
            site=owner.site if owner else "",
            cpu_s=stats["cpu.time"] / 1e9,
            disk_read_bytes=summed("block", "rd.bytes"),
            disk_write_bytes=summed("block", "wr.bytes"),
            net_rx_bytes=summed("net", "rx.bytes"),
            net_tx_bytes=summed("net", "tx.bytes"),
        )

    def _seen(self, domain: libvirt.virDomain, at: Sequence[int], saved: bool) -> DomainSeen:
        owner = self._owner(domain)
        state, reason = at
        off = state == libvirt.VIR_DOMAIN_SHUTOFF
        return DomainSeen(
            name=domain.name(),
            state="suspended" if off and saved else _STATES.get(state, "other"),
            vm_id=owner.vm_id if owner else "",
            site=owner.site if owner else "",
            stalled=power.is_stalled((state, reason)),
        )

    def _read_load(self) -> float:
        if self._ssh is None:
            return 0.0
        return float(self._ssh.run(["cat", "/proc/loadavg"], what="reading its load").split()[0])

    def _call(self, what: str, act: Callable[[libvirt.virConnect], T]) -> T:
        """Run libvirt calls on the connection, under the deadline, with errors translated."""
        conn = self._connection()
        where = f"{self._host.name}: {what}"
        try:
            return within(self._access.call_timeout_s, lambda: act(conn), where)
        except libvirt.libvirtError as error:
            raise translate(error, self._host.name, what) from error

    def _connection(self) -> libvirt.virConnect:
        # Twice the limit, since whoever holds the lock may first have to find out why it cannot connect.
        timeout_s = self._access.connect_timeout_s
        if not self._opening.acquire(timeout=2 * timeout_s):
            raise HostUnreachable(
                f"No connection to libvirt on {self._host.name} yet: another thread still tries."
            )
        try:
            if self._conn is None or not self._conn.isAlive():
                self._conn = self._open(timeout_s)
            return self._conn
        finally:
            self._opening.release()

    def _open(self, timeout_s: float) -> libvirt.virConnect:
        _start_event_loop()
        try:
            conn = within(timeout_s, lambda: libvirt.open(self._host.uri), f"connecting to {self._host.name}")
            with contextlib.suppress(libvirt.libvirtError):  # local drivers have none
                conn.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
            return conn
        except TimedOut as error:
            self._explain()
            raise HostUnreachable(
                f"libvirt on {self._host.name} did not answer within {timeout_s:g} s."
            ) from error
        except libvirt.libvirtError as error:
            self._explain()
            raise translate(error, self._host.name, "connecting") from error

    def _explain(self) -> None:
        """Where SSH itself is the trouble, raise its clear error instead of libvirt's quotation of it."""
        if self._ssh is not None:
            self._ssh.check()


def _lookup(conn: libvirt.virConnect, name: str) -> libvirt.virDomain | None:
    try:
        return conn.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _GONE:
            return None
        raise


def _read_owner(domain: libvirt.virDomain, flags: int = 0) -> domain_xml.Owner | None:
    """Our metadata in a domain; None if it has none, or is gone by now."""
    try:
        return domain_xml.read_owner(
            domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.NAMESPACE, flags)
        )
    except libvirt.libvirtError as error:
        if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN_METADATA, *_GONE):
            return None
        raise


@contextlib.contextmanager
def _already(*codes: int) -> Iterator[None]:
    """Take these errors as the news that it is so already."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


def _paths(spec: DomainSpec) -> list[str]:
    return [disk.path for disk in spec.disks]


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


_all: weakref.WeakSet[LibvirtHypervisor] = weakref.WeakSet()
_loop_lock = threading.Lock()
_loop_pid = 0


def _start_event_loop() -> None:
    """Start this process's event loop, once. Raises Unsupported in the child of a process that had one.

    GLib's locks, which libvirt's loop takes, are not released in a forked child: if the parent's loop held
    one just then, the child's first connection would wait for ever.
    """
    global _loop_pid
    with _loop_lock:
        if _loop_pid == 0:
            libvirt.registerErrorHandler(_ignore, None)
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt events", daemon=True).start()
            _loop_pid = os.getpid()
        if _loop_pid != os.getpid():
            raise Unsupported(
                "libvirt was in use already when this process was forked: start a process anew instead."
            )


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _ignore(_context: object, _error: object) -> None:
    """Errors are raised too: libvirt need not print them."""


def _close_all() -> None:
    """At the end of the process, while libvirt's module can still do it."""
    for one in list(_all):
        one.close()


def _after_fork() -> None:
    """The child forgets the parent's connections without closing them: their sockets are shared."""
    global _loop_lock
    _loop_lock = threading.Lock()
    for one in list(_all):
        one._forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_after_fork)


def _peer(destination: HostRef, access: Access) -> LibvirtHypervisor:
    """The driver of another host. Raises Unsupported where that is no libvirt host."""
    peer = registry.hypervisor(destination, access)
    if not isinstance(peer, LibvirtHypervisor):
        raise Unsupported(f"A machine cannot migrate to {destination.name}: no libvirt runs there.")
    return peer


def hypervisor_capabilities(uri: str) -> HypervisorCapabilities:
    """What hosts of this driver can do; none is asked."""
    return CAPABILITIES


def hypervisor(host: HostRef, access: Access) -> LibvirtHypervisor:
    return LibvirtHypervisor(host, access, ssh_module.connection(host, access))
