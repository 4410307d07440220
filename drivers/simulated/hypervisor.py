"""A simulated host's domains, with libvirt's refusals and its side effects on the switch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from drivers.contract import Access, HypervisorCapabilities
from drivers.simulated import devices, power, routers, shapes, snapshots
from drivers.simulated.console import SimulatedConsole
from drivers.simulated.datastore import ROOT
from drivers.simulated.store import Call, datacenter, parse_uri
from vdc.errors import HostUnreachable, NotFound
from vdc.model import (
    UNTUNED,
    Attachment,
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
)

SEEN = "SELECT name, replace(state, 'incoming', 'paused'), vm_id, site FROM domains WHERE host = ?"

CAPABILITIES = HypervisorCapabilities(live_migration=True, snapshots=True)

DOWNTIME_S = 0.05
MIB = 2**20

COUNTERS = """
SELECT d.name, d.vm_id, d.site, ifnull(cpu_s, 0.0), ifnull(disk_read_bytes, 0), ifnull(disk_write_bytes, 0),
    ifnull(net_rx_bytes, 0), ifnull(net_tx_bytes, 0)
FROM domains d LEFT JOIN counters c ON c.host = d.host AND c.domain = d.name
WHERE d.host = ? AND d.state IN ('running', 'paused') ORDER BY d.name
"""


class SimulatedHypervisor:
    """Domains of one host. How many fit is not looked at: libvirt does not do so either."""

    def __init__(self, host: HostRef, access: Access) -> None:
        self.capabilities = CAPABILITIES
        self._path, self._host = parse_uri(host.uri, "host")
        self._access = access
        self._timeout_s = access.call_timeout_s

    def _call(self, name: str, subject: str = "") -> AbstractContextManager[Call]:
        return datacenter(self._path).call(self._host, f"hypervisor.{name}", subject, self._timeout_s)

    def read_facts(self) -> HostFacts:
        with self._call("read_facts") as call:
            row = call.one(
                "SELECT host_uuid, arch, domain_types, vcpu, memory_mib, load_1m, hypervisor_version,"
                " cpu_model FROM hosts WHERE name = ?",
                (self._host,),
            )
        host_uuid, arch, domain_types, *rest = row
        return HostFacts(self._host, host_uuid, arch, tuple(domain_types.split()), *rest)

    def read_use(self) -> HostUse:
        """Its load is what it was set to; CPU and memory it has none of."""
        with self._call("read_use") as call:
            load_1m, machines = call.one(
                "SELECT load_1m, (SELECT count(*) FROM domains d WHERE d.host = h.name"
                " AND d.state IN ('running', 'paused')) FROM hosts h WHERE name = ?",
                (self._host,),
            )
        return HostUse(load_1m, machines, None, None, None, None)

    def read_domains(self) -> list[DomainSeen]:
        with self._call("read_domains") as call:
            return [DomainSeen(*row) for row in call.execute(f"{SEEN} ORDER BY name", (self._host,))]

    def read_domain(self, name: str) -> DomainSeen | None:
        with self._call("read_domain", name) as call:
            row = call.one(f"{SEEN} AND name = ?", (self._host, name))
        return DomainSeen(*row) if row else None

    def read_counters(self) -> list[DomainCounters]:
        with self._call("read_counters") as call:
            rows = call.execute(COUNTERS, (self._host,)).fetchall()
        return [DomainCounters(*row) for row in rows]

    def ensure_defined(self, spec: DomainSpec) -> bool:
        wanted = _encoded(spec)
        with self._call("ensure_defined", spec.name) as call:
            domain_types, arch = call.one(
                "SELECT domain_types, arch FROM hosts WHERE name = ?", (self._host,)
            )
            if spec.domain_type not in domain_types.split() or spec.arch != arch:
                raise call.failure(
                    f"invalid argument: no capabilities for arch={spec.arch} domaintype={spec.domain_type}"
                )
            rows = call.execute(
                "SELECT name, uuid, spec FROM domains WHERE host = ? AND (name = ? OR uuid = ?)",
                (self._host, spec.name, spec.vm_id),
            ).fetchall()
            for name, uuid, present in rows:
                if (name, uuid) != (spec.name, spec.vm_id):
                    raise call.failure(f"operation failed: domain '{name}' already exists with uuid {uuid}")
                if present == wanted:
                    return False
            call.execute(
                "INSERT INTO domains VALUES (?, ?, ?, ?, ?, 'stopped', ?)"
                " ON CONFLICT (host, name) DO UPDATE SET site = excluded.site, spec = excluded.spec",
                (self._host, spec.name, spec.vm_id, spec.vm_id, spec.site, wanted),
            )
            return True

    def ensure_started(self, name: str, *, paused: bool = False) -> bool:
        with self._call("ensure_started", name) as call:
            row = call.one("SELECT state, spec FROM domains WHERE host = ? AND name = ?", (self._host, name))
            if row is None:
                raise NotFound(f"{self._host}: starting {name} failed: there is no such domain.")
            state, spec = row
            if state == "running" or (state == "paused" and paused):
                return False
            if state != "paused":
                self._start(call, name, json.loads(spec))
                if state != "suspended":
                    devices.boot(call.execute, self._host, name, json.loads(spec))
                    shapes.boot(call.execute, self._host, name, json.loads(spec)["size"])
                    power.boot(call, name)
                    routers.boot(call, self._host, name, json.loads(spec)["seed"])
            call.execute(
                "UPDATE domains SET state = ? WHERE host = ? AND name = ?",
                ("paused" if paused else "running", self._host, name),
            )
            return True

    def _start(self, call: Call, name: str, spec: dict[str, Any]) -> None:
        """What QEMU needs before a guest runs."""
        call.execute("DELETE FROM counters WHERE host = ? AND domain = ?", (self._host, name))
        call.execute("DELETE FROM memory_content WHERE host = ? AND domain = ?", (self._host, name))
        for path in spec["files"]:
            self._check_file(call, path)
        self._open_ports(call, spec["nics"])
        call.fail_if("halfway")

    def _open_ports(self, call: Call, nics: list[dict[str, Any]]) -> None:
        for nic in nics:
            port = (self._host, nic["device"])
            if not call.one("SELECT 1 FROM ports WHERE host = ? AND device = ?", port):
                raise call.failure(
                    f"target managed='no' but specified dev doesn't exist: port {nic['device']}"
                )

    def _check_file(self, call: Call, path: str) -> None:
        """The file and all it is backed by must be there; half-written files have other names."""
        _, _, datastore, file = path.split("/", 3) if path.startswith(f"{ROOT}/") else ("", "", "", path)
        while file:
            row = call.one(
                "SELECT f.backing FROM datastores d JOIN files f ON f.datastore = d.name"
                " AND f.host = CASE d.shared WHEN 1 THEN '' ELSE ? END WHERE d.name = ? AND f.name = ?",
                (self._host, datastore, file),
            )
            if row is None:
                raise call.failure(
                    f"Cannot access storage file '{path}': '{file}': No such file or directory"
                )
            file = row[0]

    def ensure_shut_down(self, name: str, *, timeout_s: float) -> bool:
        with self._call("ensure_shut_down", name) as call:
            if power.hears(call, self._host, name, timeout_s):
                power.off(call, self._host, name)
            return power.state_of(call, self._host, name) not in power.ON

    def ensure_stopped(self, name: str) -> bool:
        with self._call("ensure_stopped", name) as call:
            return power.off(call, self._host, name)

    def ensure_paused(self, name: str) -> bool:
        with self._call("ensure_paused", name) as call:
            power.must_run(call, self._host, name, "paused")
            before = power.state_of(call, self._host, name)
            self._set_state(call, name, "paused")
            return before != "paused"

    def ensure_suspended(self, name: str, *, timeout_s: float) -> bool:
        with self._call("ensure_suspended", name) as call:
            if power.state_of(call, self._host, name) == "suspended":
                return False
            power.must_run(call, self._host, name, "suspended")
            return power.off(call, self._host, name, "suspended")

    def reboot(self, name: str, *, timeout_s: float) -> bool:
        with self._call("reboot", name) as call:
            power.must_run(call, self._host, name, "rebooted")
            if not power.hears(call, self._host, name, timeout_s):
                return False
            power.boot(call, name)
            return True

    def reset(self, name: str) -> None:
        with self._call("reset", name) as call:
            power.must_run(call, self._host, name, "reset")
            power.boot(call, name)

    def read_vnc(self, name: str) -> VncEndpoint:
        with self._call("read_vnc", name) as call:
            power.must_run(call, self._host, name, "seen: it has no screen")
            return VncEndpoint("127.0.0.1", 5900)

    def open_console(
        self,
        name: str,
        on_output: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        force: bool = False,
    ) -> SimulatedConsole:
        with self._call("open_console", name) as call:
            power.must_run(call, self._host, name, "attached to")
        return SimulatedConsole(name, on_output)

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
        peer = self._peer(destination)
        with self._call("ensure_migrated", name) as call:
            self._must_be_up(call, peer)
            here, there = self._state(call, name), peer._state(call, name)
            if there == "running" and here != "running":
                return MigrationResult(0.0, DOWNTIME_S)
            if here != "running":
                raise call.failure(f"domain {name} does not run there: it cannot be migrated")
            if there is not None:
                raise call.failure(f"domain '{name}' is already active on {peer._host}")
            call.execute(
                "INSERT INTO domains SELECT ?, name, uuid, vm_id, site, 'incoming', spec FROM domains"
                " WHERE host = ? AND name = ?",
                (peer._host, self._host, name),
            )
            spec = call.one("SELECT spec FROM domains WHERE host = ? AND name = ?", (self._host, name))[0]
            peer._start(call, name, json.loads(spec))
            shapes.carry(call.execute, name, self._host, peer._host)
            devices.carry(call.execute, name, self._host, peer._host)
            if progress:
                with call.outside():
                    progress(0, MIB)
                    progress(MIB, MIB)
            for index in copy:
                path = json.loads(spec)["files"][index]
                source, target = (snapshots.place(call.execute, h, path) for h in (self._host, peer._host))
                written = snapshots.content(call.execute, source)
                call.execute("REPLACE INTO disk_content VALUES (?, ?, ?, ?)", (*target, written))
            peer._set_state(call, name, "running")
            self._forget(call, name)
            return MigrationResult(0.0, DOWNTIME_S)

    def ensure_settled(self, name: str, destination: HostRef, *, timeout_s: float) -> MigrationResult | None:
        peer = self._peer(destination)
        with self._call("ensure_settled", name) as call:
            self._must_be_up(call, peer)
            here, there = self._state(call, name), peer._state(call, name)
            if here == there == "running":
                raise call.failure(f"domain {name} runs there and on {peer._host}: stop one of them by hand")
            if there is not None and (here is None or there in ("running", "paused")):
                self._forget(call, name)
                on = there in power.ON
                return MigrationResult(0.0, DOWNTIME_S) if on else MigrationResult(None, None)
            peer._forget(call, name)
            return None

    def _peer(self, destination: HostRef) -> SimulatedHypervisor:
        return SimulatedHypervisor(destination, self._access)

    def _must_be_up(self, call: Call, peer: SimulatedHypervisor) -> None:
        row = call.one("SELECT up FROM hosts WHERE name = ?", (peer._host,))
        if not row or not row[0]:
            raise HostUnreachable(f"{peer._host}: cannot be reached from {self._host}.")

    def _state(self, call: Call, name: str) -> str | None:
        row = call.one("SELECT state FROM domains WHERE host = ? AND name = ?", (self._host, name))
        return row[0] if row else None

    def _set_state(self, call: Call, name: str, state: str) -> None:
        call.execute("UPDATE domains SET state = ? WHERE host = ? AND name = ?", (state, self._host, name))

    def _forget(self, call: Call, name: str) -> None:
        call.execute("DELETE FROM domains WHERE host = ? AND name = ?", (self._host, name))

    def read_shape(self, spec: DomainSpec) -> ShapeSeen:
        with self._call("read_shape", spec.name) as call:
            return self._shape(call, spec)

    def _shape(self, call: Call, spec: DomainSpec) -> ShapeSeen:
        places = [snapshots.place(call.execute, self._host, disk.path) for disk in spec.disks]
        size = "SELECT virtual_mib FROM files WHERE datastore = ? AND host = ? AND name = ?"
        disks_mib = tuple(int(row[0]) for place in places if (row := call.one(size, place)))
        return shapes.seen(call.execute, self._host, spec.name, disks_mib)

    def ensure_shape(self, spec: DomainSpec, *, timeout_s: float) -> ShapeSeen:
        with self._call("ensure_shape", spec.name) as call:
            has = self._shape(call, spec)
            if has.running:
                shapes.plug(call.execute, self._host, spec.name, has, spec.vcpu)
                call.fail_if("halfway")
                shapes.balloon(call.execute, self._host, spec.name, has, spec.memory_mib)
            return self._shape(call, spec)

    def grow_root(self, name: str, *, timeout_s: float) -> str:
        with self._call("grow_root", name) as call:
            running = self._state(call, name) == "running"
            deaf = call.one("SELECT 1 FROM deaf WHERE domain = ?", (name,))
            return "its guest's agent does not answer" if running and deaf else ""

    def ensure_disk_grown(self, spec: DomainSpec, index: int, size_mib: int) -> bool:
        with self._call("ensure_disk_grown", spec.name) as call:
            place = snapshots.place(call.execute, self._host, spec.disks[index].path)
            row = call.one(
                "SELECT virtual_mib FROM files WHERE datastore = ? AND host = ? AND name = ?", place
            )
            if row is None:
                raise call.failure(f"Could not open '{spec.disks[index].path}': No such file or directory")
            if row[0] >= size_mib:
                return False
            call.execute(
                "UPDATE files SET virtual_mib = ? WHERE datastore = ? AND host = ? AND name = ?",
                (size_mib, *place),
            )
            return True

    def read_devices(self, name: str) -> DevicesSeen:
        with self._call("read_devices", name) as call:
            return devices.seen(call.execute, self._host, name)

    def ensure_attached(self, name: str, device: DeviceAttachment) -> bool:
        with self._call("ensure_attached", name) as call:
            key = devices.key(device)
            if power.state_of(call, self._host, name) not in power.ON:
                return False
            if devices.has(call.execute, self._host, name, key):
                return False
            if isinstance(device, Attachment):
                self._open_ports(call, [_nic(device)])
            else:
                self._check_file(call, device.path)
            call.fail_if("halfway")
            devices.plug(call.execute, self._host, name, key)
            return True

    def ensure_detached(self, name: str, device: DeviceAttachment, *, timeout_s: float) -> bool:
        with self._call("ensure_detached", name) as call:
            key = devices.key(device)
            if self._state(call, name) not in power.ON:
                return True
            if devices.has(call.execute, self._host, name, key):
                if call.one("SELECT 1 FROM rigid WHERE domain = ?", (name,)):
                    return False
                devices.unplug(call.execute, self._host, name, key)
                call.fail_if("halfway")
            return True

    def refresh_seed(self, spec: DomainSpec) -> None:
        with self._call("refresh_seed", spec.name) as call:
            if power.state_of(call, self._host, spec.name) in power.ON and spec.seed_path:
                self._check_file(call, spec.seed_path)

    def run_in_guest(self, name: str, command: Sequence[str], *, timeout_s: float) -> str:
        with self._call("run_in_guest", name) as call:
            power.must_run(call, self._host, name, "asked")
            return routers.run(call, self._host, name, command, self._seed(call, name))

    def _seed(self, call: Call, name: str) -> str:
        row = call.one("SELECT spec FROM domains WHERE host = ? AND name = ?", (self._host, name))
        return str(json.loads(row[0])["seed"])

    def read_snapshots(self, spec: DomainSpec) -> list[SnapshotSeen]:
        with self._call("read_snapshots", spec.name) as call:
            return snapshots.seen(call.execute, self._disks(call, spec))

    def ensure_snapshot(self, spec: DomainSpec, snapshot: SnapshotSpec, *, timeout_s: float) -> bool:
        with self._call("ensure_snapshot", spec.name) as call:
            disks = self._disks(call, spec)
            found = [s for s in snapshots.seen(call.execute, disks) if s.snapshot_id == snapshot.snapshot_id]
            if found and found[0].whole:
                return False
            with_memory = snapshot.kind == "memory"
            if with_memory and self._state(call, spec.name) != "running":
                raise call.failure(f"domain {spec.name} does not run, so that it has no memory")
            memory = snapshots.memory(call.execute, self._host, spec.name) if with_memory else ""
            for index, disk in enumerate(disks):
                size_mib = spec.memory_mib // 2 if with_memory and index == 0 else 0
                snapshots.take(call.execute, disk, snapshot, memory, size_mib)
                call.fail_if("halfway")
            return True

    def ensure_reverted(
        self, spec: DomainSpec, snapshot: SnapshotSpec, *, start: str, timeout_s: float
    ) -> None:
        with self._call("ensure_reverted", spec.name) as call:
            disks = self._disks(call, spec)
            whole = {s.snapshot_id for s in snapshots.seen(call.execute, disks) if s.whole}
            if snapshot.snapshot_id not in whole or not disks:
                raise call.failure(f"there is no such snapshot of {spec.name} as {snapshot.snapshot_id}")
            if self._state(call, spec.name) is None:
                raise NotFound(f"{self._host}: there is no domain {spec.name}.")
            self._power_off(call, spec.name)
            call.fail_if("halfway")
            memory = ""
            for disk in disks:
                memory = snapshots.go_back(call.execute, disk, snapshot.snapshot_id) or memory
            after = "running" if snapshot.kind == "memory" else start
            if after == "stopped":
                return
            self._start(call, spec.name, json.loads(_encoded(spec)))
            devices.boot(call.execute, self._host, spec.name, json.loads(_encoded(spec)))
            shapes.boot(call.execute, self._host, spec.name, shapes.described(spec))
            if snapshot.kind == "memory":
                call.execute("REPLACE INTO memory_content VALUES (?, ?, ?)", (self._host, spec.name, memory))
            self._set_state(call, spec.name, after)

    def ensure_snapshot_removed(self, spec: DomainSpec, snapshot_id: str) -> bool:
        with self._call("ensure_snapshot_removed", spec.name) as call:
            return snapshots.remove(call.execute, self._disks(call, spec), snapshot_id)

    def _disks(self, call: Call, spec: DomainSpec) -> list[snapshots.Place]:
        """Where its disks are, as far as they are there."""
        places = [snapshots.place(call.execute, self._host, disk.path) for disk in spec.disks]
        there = "SELECT 1 FROM files WHERE datastore = ? AND host = ? AND name = ?"
        return [place for place in places if call.one(there, place)]

    def _power_off(self, call: Call, name: str) -> None:
        self._set_state(call, name, "stopped")

    def ensure_removed(self, name: str) -> bool:
        with self._call("ensure_removed", name) as call:
            where = (self._host, name)
            row = call.one("SELECT vm_id FROM domains WHERE host = ? AND name = ?", where)
            if row is None:
                return False
            if not row[0]:
                raise call.failure(f"domain {name} is not ours and stays as it is")
            if call.has_fault("halfway"):  # powered off, still defined
                call.execute("UPDATE domains SET state = 'stopped' WHERE host = ? AND name = ?", where)
            call.fail_if("halfway")
            call.execute("DELETE FROM domains WHERE host = ? AND name = ?", where)
            return True


def _encoded(spec: DomainSpec) -> str:
    """What a start needs of the description, and all of it for comparison (`asdict` would take 0.1 ms)."""
    files = [disk.path for disk in spec.disks] + ([spec.seed_path] if spec.seed_path else [])
    files += [cdrom.path for cdrom in spec.cdroms]
    nics = [_nic(nic) for nic in spec.nics]
    size = shapes.described(spec)
    seed = spec.seed_path or ""
    return json.dumps({"files": files, "seed": seed, "nics": nics, "size": size, "spec": repr(spec)})


def _nic(nic: Attachment) -> dict[str, Any]:
    return {"device": nic.device, "mac": nic.mac}


def hypervisor_capabilities(uri: str) -> HypervisorCapabilities:
    """What simulated hosts can do."""
    return CAPABILITIES


def hypervisor(host: HostRef, access: Access) -> SimulatedHypervisor:
    """The driver of `simulated:///path/dc.db?host=NAME`."""
    return SimulatedHypervisor(host, access)
