"""A small datacenter for tests of flows: simulated hosts, a fresh inventory, and what a deployment needs.

What would be done on hosts is done through the inventory's own functions and the simulation's hand, so that
a site costs a few hundredths of a second; flows/enroll_host and flows/import_image have tests of their own.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, cast

from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import Session

from drivers.simulated import Simulation, Store, Switch, host_facts
from vdc import catalog, inventory, specs
from vdc.claims.deploy import claim_deploy
from vdc.claims.hosts import HostChecked, claim_enrolment
from vdc.claims.images import claim_import, record_imported
from vdc.event_kinds import BECOMES, OTHER, RANK
from vdc.inventory import read_session, write_session
from vdc.model import HostFacts, StorageUse, VmSpec
from vdc.operations import Fence
from vdc.records import Outcome, close_batch, record_provisioned
from vdc.requests import DeployRequest, EnrollHostRequest, ImportImageRequest
from vdc.schema import Cdrom, Disk, Host, Image, Nic, Operation, Snapshot, Tenant, UsageEvent, Vm, Volume
from vdc.states import HOLDING, VmState
from vdc.usage import Use, host_loads, tenant_use

ACTOR = "tester"
AT_REST = (VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.SUSPENDED, VmState.HELD)
CAPACITY_MIB = 10 * 1024 * 1024


@lru_cache(maxsize=1)
def _migrated() -> bytes:
    """An SQLite inventory with its schema and nothing else: a migration takes longer than a copy."""
    directory = Path(mkdtemp(prefix="vdc-inventory-"))
    try:
        url = f"sqlite:///{directory / 'inventory.db'}"
        inventory.migrate(url)
        inventory.engine(url).dispose()
        return (directory / "inventory.db").read_bytes()
    finally:
        shutil.rmtree(directory)


def new_inventory(url: str) -> str:
    """Make `url` an inventory as `vdc up` does."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).write_bytes(_migrated())
        quick(url)
    else:
        inventory.migrate(url)
    return url


_COMPILED: dict[Any, Any] = {}


def quick(url: str) -> None:
    """Let this process's engine share compiled statements with those of other tests, and wait for no disk.

    SQLAlchemy keeps a cache for each engine: to fill it anew for each test took a third of the tests' time.
    No test cuts the power, which is all that a commit need not survive here.
    """
    if not url.startswith("sqlite:///"):
        return
    engine = inventory.engine(url)
    engine.dialect = _dialect()
    engine.update_execution_options(compiled_cache=_COMPILED)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))


@lru_cache(maxsize=1)
def _dialect() -> Any:
    engine = create_engine("sqlite://")
    with engine.connect():
        return engine.dialect


@dataclass(frozen=True)
class _Kept:
    """A site that was made somewhere, to be copied: its hosts' file and its inventory's."""

    directory: Path
    hosts: bytes
    rows: bytes

    @classmethod
    def of(cls, site: Site) -> _Kept:
        directory = site.sim.path.parent
        return cls(directory, _contents(site.sim.path), _contents(directory / INVENTORY))

    def write(self, directory: Path) -> None:
        """Into an empty directory; the path in its names is replaced by one as long."""
        old, new = os.fsencode(self.directory), os.fsencode(directory)
        assert len(old) == len(new)
        (directory / HOSTS).write_bytes(self.hosts.replace(old, new))
        (directory / INVENTORY).write_bytes(self.rows.replace(old, new))


HOSTS, INVENTORY = "dc.db", "inventory.db"


def _contents(file: Path) -> bytes:
    """Of an SQLite database, with what is still in its log."""
    with closing(sqlite3.connect(file)) as connection:
        return connection.serialize()


@cache
def _a_site(shared: bool) -> _Kept:
    directory = Path(mkdtemp(prefix="vdc-site-"))
    try:
        made = Site.create(directory, shared=shared)
        kept = _Kept.of(made)
        made.close()
        return kept
    finally:
        shutil.rmtree(directory)


def once(furnish: Callable[..., Site]) -> Callable[..., Site]:
    """A fixture that makes something on a site that was just copied: the first time; then that is copied too.

    What it does elsewhere than on the site's hosts and in its inventory is done the first time only.
    """
    kept: list[_Kept] = []

    @wraps(furnish)
    def made(**fixtures: Any) -> Site:
        (site,) = (fixture for fixture in fixtures.values() if isinstance(fixture, Site))
        if kept:
            site.close()
            kept[0].write(site.sim.path.parent)
            quick(site.url)
        else:
            assert furnish(**fixtures) is site
            kept.append(_Kept.of(site))
        return cast(Site, site)

    return made


@dataclass(frozen=True)
class Site:
    """The simulated hosts and the inventory that knows them."""

    sim: Simulation
    url: str
    shared: bool = True
    """Its datastore `shared` is so; else each host has a part of it for itself."""

    @classmethod
    def create(
        cls,
        directory: Path,
        url: str = "",
        hosts: Sequence[str | HostFacts] = ("h1", "h2"),
        *,
        cidr: str = "10.1.0.0/24",
        memory_mib: int = 128,
        shared: bool = True,
        tunnels: bool = False,
        **enrolment: Any,
    ) -> Site:
        """Hosts enrolled; networks `blue` and `green`; image and template `tiny` with a card on each."""
        sim = Simulation.create(
            directory / HOSTS,
            hosts=hosts,
            datastores=[Store("shared", shared)],
            switches=[Switch("trunk0", tunnels=tunnels)],
        )
        site = cls(sim, new_inventory(url or f"sqlite:///{directory / 'inventory.db'}"), shared)
        with write_session(site.url) as session:
            site._write_down(session, hosts, cidr, memory_mib, enrolment)
        return site

    @classmethod
    @contextmanager
    def copied(cls, *, shared: bool = True) -> Iterator[Site]:
        """A site as `create` makes it, from a copy."""
        kept = _a_site(shared)
        directory = Path(mkdtemp(prefix="vdc-site-"))
        try:
            kept.write(directory)
            url = f"sqlite:///{directory / INVENTORY}"
            quick(url)
            made = cls(Simulation(directory / HOSTS), url, shared)
            yield made
            made.close()
        finally:
            shutil.rmtree(directory)

    def close(self) -> None:
        """Remove its files, where its inventory is one too."""
        self.sim.delete()
        inventory.engine(self.url).dispose()
        for file in self.sim.path.parent.glob(f"{INVENTORY}*"):
            file.unlink()

    def _write_down(
        self,
        session: Session,
        hosts: Sequence[str | HostFacts],
        cidr: str,
        memory_mib: int,
        enrolment: dict[str, Any],
    ) -> None:
        sim = self.sim
        catalog.create_datastore(
            session, "shared", sim.datastore_uri(), disk_format="qcow2", shared=self.shared, actor=ACTOR
        )
        for host in hosts:
            facts = host_facts(host) if isinstance(host, str) else host
            request = EnrollHostRequest(
                name=facts.hostname,
                uri=sim.host(facts.hostname).uri,
                networks=[sim.network_uri()],
                **enrolment,
            )
            use = StorageUse(CAPACITY_MIB, CAPACITY_MIB)
            claim_enrolment(session, request, HostChecked(facts, {"shared": use}), actor=ACTOR)
        for vlan_id, name in ((100, "blue"), (101, "green")):
            catalog.create_vnet(
                session,
                name,
                uri=sim.network_uri(),
                needs_vlan=True,
                vlan_id=vlan_id,
                cidr=cidr,
                actor=ACTOR,
            )
        image = claim_import(
            session,
            ImportImageRequest(file="/tiny.qcow2", name="tiny", datastore="shared"),
            size_mib=16,
            virtual_size_mib=64,
            sha256="",
            stored_sha256="",
            actor=ACTOR,
        )
        record_imported(session, image)
        sim.add_file("shared", image.image.file, 16 * 2**20)
        vnets = ["blue", "green"]
        catalog.create_template(
            session, "tiny", image="tiny", vcpu=1, memory_mib=memory_mib, vnets=vnets, actor=ACTOR
        )

    def with_machine(self, name: str, **request: Any) -> Site:
        """This site with a machine of template `tiny` on it: what flows/deploy does, without the flow run."""
        from tasks.environment import environment
        from tasks.machines import PROVISION, run_steps

        asked = DeployRequest(**{"template": "tiny", "name": name, **request})
        with write_session(self.url) as session:
            batch = claim_deploy(session, asked, actor=ACTOR, prices=environment().settings.prices).batch
        fence = Fence(self.url, 60, [batch.claim, *(m.claim for m in batch.machines)])
        made = [Outcome(m.claim, m.spec, run_steps(PROVISION, m, fence)) for m in batch.machines]
        with write_session(self.url) as session:
            record_provisioned(session, made)
            close_batch(session, batch.claim)
        return self

    # -- what a user would look at -------------------------------------------------------------------------

    def machines(self) -> dict[str, VmState]:
        """State of each machine that there ever was, by name."""
        with read_session(self.url) as session:
            rows = session.execute(select(Vm.name, Vm.state).order_by(Vm.name))
            return {name: VmState(state) for name, state in rows}

    def spec(self, name: str) -> VmSpec:
        with read_session(self.url) as session:
            return specs.load(session.scalars(select(Vm.spec).where(Vm.name == name)).one())

    def open_operations(self) -> list[str]:
        with read_session(self.url) as session:
            rows = session.execute(select(Operation).where(Operation.finished_at.is_(None))).scalars()
            return [f"{row.kind} {row.object}" for row in rows]

    def errors(self) -> dict[str, str | None]:
        """Error of the last operation on each object."""
        with read_session(self.url) as session:
            rows = session.execute(select(Operation.object, Operation.error).order_by(Operation.started_at))
            return dict(rows.all())

    def use(self, tenant: str = "default") -> Use:
        with read_session(self.url) as session:
            return tenant_use(session, session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one())

    def load(self) -> dict[str, tuple[int, int, int]]:
        """Machines, vCPU and memory that each host carries."""
        with read_session(self.url) as session:
            return {h.name: (h.vms, h.vcpu_used, h.memory_mib_used) for h in host_loads(session)}

    def leases(self) -> list[str]:
        with read_session(self.url) as session:
            return list(session.scalars(select(Nic.address).order_by(Nic.address)))

    def events(self, name: str) -> list[str]:
        """Kinds of a machine's usage events, in the order in which they happened."""
        with read_session(self.url) as session:
            query = select(UsageEvent.kind).join(Vm, Vm.id == UsageEvent.vm_id).where(Vm.name == name)
            return list(session.scalars(query.order_by(UsageEvent.at, UsageEvent.kind)))

    def snapshot(self) -> dict[str, Any]:
        """All that must be as before when nothing was to be done: hosts, leases, capacity, quota."""
        return {
            "hosts": self.sim.snapshot_state(),
            "leases": self.leases(),
            "load": self.load(),
            "use": self.use(),
            "open": self.open_operations(),
        }

    def rows(self) -> dict[str, list[str]]:
        """Every row of the inventory, but for when something was last looked at, and for what was refused."""
        # As they are in the database: to make Python's types of all that takes ten times as long.
        with inventory.engine(self.url).connect() as connection:
            return {
                table.name: sorted(
                    str({k: v for k, v in row.items() if k not in ("observed_at", "load_1m", "free_mib")})
                    for row in connection.exec_driver_sql(f'SELECT * FROM "{table.name}"').mappings()
                )
                for table in Vm.metadata.sorted_tables
                if table.name != "refusals"
            }

    # -- what must always hold -----------------------------------------------------------------------------

    def assert_agrees(self, *, foreign: Sequence[str] = ()) -> None:
        """Inventory and hosts say exactly the same, and nothing is under way."""
        assert self.open_operations() == []
        self.assert_sound()
        domains: dict[str, dict[str, str]] = {}
        ports: dict[str, set[str]] = {}
        needed: dict[str, set[str]] = {}
        with read_session(self.url) as session:
            images = set(session.scalars(select(Image.file)))
            files: dict[str, set[str]] = {"shared": set()}
            for file, host in session.execute(
                select(Volume.file, Host.name)
                .join(Host, Host.id == Volume.host_id)
                .where(Volume.state == "kept")
            ):
                files.setdefault("shared" if self.shared else f"shared@{host}", set()).add(file)
            assert session.query(Volume).filter(Volume.state == "removing").count() == 0
            for table in (Disk, Cdrom, Nic):
                assert session.query(table).filter(table.ready.is_(False)).count() == 0, "half in"
            made = set(session.scalars(select(UsageEvent.vm_id).where(UsageEvent.kind == "created")))
            snapshots: dict[str, set[str]] = {}
            query = select(Disk.file, Snapshot.id, Snapshot.ready).join(Disk, Disk.vm_id == Snapshot.vm_id)
            for file, snapshot, ready in session.execute(query):
                assert ready, f"a half-made snapshot in {file}"
                snapshots.setdefault(file, set()).add(snapshot)
            for vm in session.scalars(select(Vm).where(Vm.state.in_(HOLDING))):
                assert vm.state in AT_REST, (vm.name, vm.state)
                spec = specs.load(vm.spec)
                if spec.cloud or (vm.state == VmState.HELD and vm.id not in made):
                    continue
                self._assert_size(session, vm, spec)
                self._assert_devices(session, vm, spec)
                off = VmState.STOPPED if vm.state == VmState.HELD else vm.state
                domains.setdefault(spec.host.name, {})[spec.domain] = off
                where = "shared" if self.shared else f"shared@{spec.host.name}"
                own = [d.file for d in spec.disks if not d.persistent]
                files.setdefault(where, set()).update([spec.seed_file, *own])
                ports.setdefault(spec.host.name, set()).update(n.device for n in spec.nics)
                if vm.state in (VmState.RUNNING, VmState.PAUSED):
                    needed.setdefault(spec.host.name, set()).update(n.device for n in spec.nics)
        seen = self.sim.snapshot_state()
        ours = {
            host: {name: state for name, state in names.items() if name not in foreign}
            for host, names in seen["domains"].items()
        }
        assert {host: names for host, names in ours.items() if names} == domains
        # A machine that is off may have them: they are made again before it starts.
        plugged = {host: set(names) for host, names in seen["ports"].items()}
        assert all(names <= ports.get(host, set()) for host, names in plugged.items()), "a port of nobody"
        assert all(names <= plugged.get(host, set()) for host, names in needed.items()), "a port is missing"
        assert self.sim.loose_ports() == []
        assert images <= set(seen["files"].get("shared", {}))
        # Hosts that have a part of their own keep the images that they were brought.
        there = {where: set(names) - images for where, names in seen["files"].items()}
        assert {where: names for where, names in there.items() if names} == {
            where: names for where, names in files.items() if names
        }
        assert self.sim.snapshots() == snapshots

    def _assert_size(self, session: Session, vm: Vm, spec: VmSpec) -> None:
        """Rows, spec and host say the same of CPUs, memory and disks."""
        assert not vm.resizing, f"it is not known what {vm.name} has"
        disks = tuple(session.scalars(select(Disk.size_mib).where(Disk.vm_id == vm.id).order_by(Disk.index)))
        rows = (vm.vcpu, vm.memory_mib, disks)
        assert (spec.vcpu, spec.memory_mib, tuple(d.size_mib for d in spec.disks)) == rows
        if vm.state == VmState.SUSPENDED:
            return  # its memory says what it has
        seen = self.sim.shape(spec.host.name, spec.domain)
        found = (seen.vcpu, seen.memory_mib, seen.disks_mib)
        assert found == (vm.vcpu, vm.memory_mib, disks[:1]), f"{vm.name} has another size"

    def _assert_devices(self, session: Session, vm: Vm, spec: VmSpec) -> None:
        """Rows, spec and host say the same of what is plugged in, and of what it is described with."""
        disks = {(i, f) for i, f in session.execute(select(Disk.index, Disk.file).where(Disk.vm_id == vm.id))}
        assert {(d.index, d.file) for d in spec.disks} == disks
        images = select(Cdrom.index, Image.file).join(Image, Image.id == Cdrom.image_id)
        isos = {(i, f) for i, f in session.execute(images.where(Cdrom.vm_id == vm.id))}
        assert {(c.index, c.file) for c in spec.cdroms} == isos
        nics = {(i, m) for i, m in session.execute(select(Nic.index, Nic.mac).where(Nic.vm_id == vm.id))}
        assert {(n.index, n.mac) for n in spec.nics} == nics
        if vm.state == VmState.SUSPENDED:
            return
        files = {file for _, file in (*disks, *isos)} | {spec.seed_file}
        for seen in self.sim.devices(spec.host.name, spec.domain):
            assert {path.rpartition("/")[2] for path in seen.files} == files, f"{vm.name}: other disks"
            assert set(seen.macs) == {mac for _, mac in nics}, f"{vm.name}: other cards"

    def assert_sound(self) -> None:
        """What may never be otherwise, also while something is under way."""
        with read_session(self.url) as session:
            vms = {vm.id: vm for vm in session.scalars(select(Vm))}
            holding = {i for i, vm in vms.items() if vm.state in HOLDING}
            nics = session.execute(select(Nic.vm_id, Nic.vnet_id, Nic.address)).all()
            assert len({(vnet, address) for _, vnet, address in nics}) == len(nics), "an address twice"
            assert {vm_id for vm_id, _, _ in nics} <= holding, "a lease of an ended machine"
            disks = set(session.scalars(select(Disk.vm_id)))
            assert disks == holding, "a live machine without a disk, or a disk of an ended one"
            for host in host_loads(session):
                assert host.vcpu_used <= host.vcpu, f"{host.name} carries too many vCPU"
                assert host.memory_mib_used <= host.memory_mib, f"{host.name} carries too much memory"
            for tenant in session.scalars(select(Tenant)):
                use = tenant_use(session, tenant.id)
                for limit, used in (
                    (tenant.max_vms, use.vms),
                    (tenant.max_vcpu, use.vcpu),
                    (tenant.max_memory_mib, use.memory_mib),
                    (tenant.max_disk_mib, use.disk_mib),
                ):
                    assert limit is None or used <= limit, f"{tenant.name} is over its quota"
            self._assert_billable(session, vms)

    def _assert_billable(self, session: Session, vms: dict[str, Vm]) -> None:
        events = session.execute(
            select(UsageEvent.vm_id, UsageEvent.operation_id, UsageEvent.kind, UsageEvent.at).where(
                UsageEvent.vm_id.is_not(None)
            )
        ).all()
        assert len({(e.vm_id, e.operation_id, e.kind) for e in events}) == len(events), "billed twice"
        kinds: dict[str, Counter[str]] = {i: Counter() for i in vms}
        thrown_away: Counter[str] = Counter()
        last: dict[str, str] = {}
        for e in sorted(events, key=lambda e: (e.at, RANK.get(e.kind, OTHER))):
            kinds[e.vm_id][e.kind] += 1
            # One that is off already: its memory went.
            thrown_away[e.vm_id] += e.kind == "stopped" and last.get(e.vm_id) == "suspended"
            last[e.vm_id] = BECOMES.get(e.kind, last.get(e.vm_id, ""))
        for vm_id, vm in vms.items():
            seen = kinds[vm_id]
            on = seen["started"] + seen["resumed"]
            off = seen["stopped"] + seen["suspended"] + seen["lost"] - thrown_away[vm_id]
            assert seen["resumed"] <= seen["suspended"], f"{vm.name} resumed, but never suspended"
            assert seen["created"] <= 1, f"{vm.name} created twice"
            assert seen["terminated"] <= seen["created"], f"{vm.name} terminated, but never created"
            if vm.state == VmState.GONE:
                assert seen["terminated"] == seen["created"], f"{vm.name} is gone and billed for ever"
            elif vm.state in (VmState.DEPLOYING, VmState.FAILED):
                assert not seen, f"{vm.name} never ran and is billed"
            elif vm.state in (VmState.RUNNING, VmState.PAUSED):
                assert seen["created"] == 1, f"{vm.name} runs unbilled"
                assert on == off + 1, f"{vm.name} runs, its bill says it does not"
            elif vm.state in (VmState.STOPPED, VmState.SUSPENDED, VmState.HELD):
                assert on == off, f"{vm.name} is off, its bill says it runs"

    def count(self, table: Any) -> int:
        with read_session(self.url) as session:
            return session.scalar(select(func.count()).select_from(table)) or 0


@contextmanager
def settings(**values: object) -> Iterator[dict[str, str]]:
    """`VDC_<NAME>` in the environment, also for the tasks of this process."""
    from tasks.environment import environment

    env = {f"VDC_{name.upper()}": str(value) for name, value in values.items()}
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    environment.cache_clear()
    try:
        yield env
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        environment.cache_clear()
