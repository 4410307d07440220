"""What reconcile decides: which dead operations to finish, and how inventory and hosts differ.

It never touches a domain that is not ours, and never concludes anything from a host that does not answer:
"unreachable" is not "gone". Whatever it found is looked at again under an operation before it acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from vdc import operations, specs
from vdc.claims import attach, persistence, saving, volumes
from vdc.claims import images as image_claims
from vdc.claims.attach import Plug
from vdc.claims.batch import Batch, Machine, failure_of, mark_failing, open_batch
from vdc.claims.deploy import host_ref, vnet_spec
from vdc.claims.images import ImageClaim
from vdc.claims.migrate import Move, migrating, move_of
from vdc.claims.next_start import take_next
from vdc.claims.persistence import Switch
from vdc.claims.power import BECOMES
from vdc.claims.resize import RESIZE, Resize, adopt_resize, resize_of
from vdc.claims.saving import SavingClaim
from vdc.claims.security import ruled
from vdc.claims.snapshot import AT_REST, DELETE, MAKE, REVERT, SnapshotClaim, adopt, open_removal
from vdc.claims.volumes import Removal
from vdc.model import DomainSeen, HostRef, NicSpec, StorageUse, disk_prefix
from vdc.operations import Claim, Opening
from vdc.records import Outcome, held
from vdc.requests import PowerRequest
from vdc.schema import (
    Cdrom,
    Datastore,
    Disk,
    Host,
    HostDatastore,
    Image,
    Nic,
    Operation,
    Router,
    Site,
    Snapshot,
    Vm,
    Vnet,
    Volume,
)
from vdc.security_groups import rules_by_machine
from vdc.states import CHARGED, HOLDING, OPERATIONS, SETTLED, Desired, VmState, check_move, usage_kind
from vdc.storage import record_use
from vdc.usage_events import vm_event

REDEPLOY = "redeploy"
"""Kind of the operations of a router that is made anew, and of its machine."""

DIED = "The process that worked on it died; reconcile took it back."

DIED_MIGRATING = "The process that worked on it died before the migration happened."

_START = {Desired.SUSPENDED.value: Desired.STOPPED.value}

MAX_ATTEMPTS = 3
"""How often a deployment whose process died is taken forward before it is taken back."""

SETTLED_STATES = (
    VmState.RUNNING,
    VmState.PAUSED,
    VmState.STOPPED,
    VmState.SUSPENDED,
    VmState.MISSING,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was found, on what, and what was done about it."""

    what: str
    object: str
    host: str
    action: str


@dataclass(frozen=True, slots=True)
class HostSeen:
    """One host's answer. With an `error` nothing else is known."""

    host: HostRef
    error: str = ""
    domains: tuple[DomainSeen, ...] = ()
    ports: tuple[str, ...] = ()
    load_1m: float = 0.0
    unguarded: frozenset[str] = frozenset()
    """Devices of cards that should be there, and whose port or rules are not."""


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """What a datastore has. `host` is empty for a shared one, else whose part of it this is."""

    uri: str
    host: str
    files: frozenset[str]
    """Names of files of ours."""
    use: StorageUse
    seen_by: tuple[str, ...] = ()
    """Names of the hosts that see the same."""


@dataclass(frozen=True, slots=True)
class World:
    """What was observed; datastores that no host could read are left out."""

    hosts: tuple[HostSeen, ...]
    stores: tuple[StoreSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class Dead:
    """What dead processes left open, now ours to finish.

    `others` are operations that need no finishing: the comparison finds anew what they were about.
    """

    forward: tuple[Machine, ...]
    back: tuple[Machine, ...]
    leaving: tuple[Machine, ...]
    images: tuple[ImageClaim, ...]
    moves: tuple[Move, ...]
    others: tuple[Claim, ...]
    batches: tuple[Claim, ...]
    switched: tuple[tuple[PowerRequest, Machine], ...] = ()
    """Machines that were being started, stopped, ..., with what was asked of them."""
    tests: tuple[Claim, ...] = ()
    """Scale tests: their machines are to go, whatever state they are in."""
    snapshots: tuple[SnapshotClaim, ...] = ()
    resizes: tuple[Resize, ...] = ()
    savings: tuple[SavingClaim, ...] = ()
    plugs: tuple[Plug, ...] = ()
    volumes: tuple[Removal, ...] = ()
    renamed: tuple[Switch, ...] = ()
    """Images that become persistent, or golden again."""
    redeployed: tuple[Machine, ...] = ()
    """Routers that were being made anew."""

    @property
    def claims(self) -> list[Claim]:
        machines = (*self.forward, *self.back, *self.leaving, *self.redeployed)
        return [
            *(m.claim for _, m in self.switched),
            *(m.claim for m in machines),
            *(i.claim for i in self.images),
            *(m.claim for m in self.moves),
            *(s.claim for s in self.snapshots),
            *(r.claim for r in self.resizes),
            *(s.claim for s in self.savings),
            *(p.claim for p in self.plugs),
            *(v.claim for v in self.volumes),
            *(r.claim for r in self.renamed),
            *self.others,
            *self.batches,
            *self.tests,
        ]


def claim_site(
    session: Session, *, actor: str, flow_run_id: str | None = None, lease_s: float = 60.0
) -> Claim:
    """Open the one reconcile operation of the site. Raises Conflict while another one is at work."""
    site_id = session.scalars(select(Site.id)).one()
    stale = session.scalars(select(Operation).where(Operation.open_key == f"site:{site_id}")).first()
    if stale is not None and operations.takeable([stale], lease_s):
        claim = operations.take_over(session, stale)
        operations.close(session, claim, error="The process died.")
    opening = Opening("reconcile", "site", site_id, "all", {})
    return operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)


def take_over_dead(session: Session, lease_s: float) -> Dead:
    """Make every open operation ours whose owner is dead, or silent for longer than `lease_s` seconds."""
    machines: dict[str, list[Machine]] = {"forward": [], "back": [], "leaving": [], "redeployed": []}
    images: list[ImageClaim] = []
    moves: list[Move] = []
    switched: list[tuple[PowerRequest, Machine]] = []
    snapshots: list[SnapshotClaim] = []
    resizes: list[Resize] = []
    savings: list[SavingClaim] = []
    plugs: list[Plug] = []
    kept: list[Removal] = []
    renamed: list[Switch] = []
    claims: dict[str, list[Claim]] = {"batch": [], "scale-test": [], "other": []}
    rows = session.scalars(select(Operation).where(Operation.finished_at.is_(None))).all()
    for row in operations.takeable(rows, lease_s):
        kind = str(row.open_key).partition(":")[0]
        if row.kind in (MAKE, REVERT, DELETE):
            snapshots.append(adopt(session, row))
            continue
        if row.kind == RESIZE:
            resizes.append(adopt_resize(session, row))
            continue
        if row.kind in attach.KINDS:
            plugs.append(attach.adopt(session, row))
            continue
        if kind == "disk":
            kept.append(volumes.adopt(session, row))
            continue
        if row.kind in (saving.SAVE, saving.CLONE):
            savings.append(saving.adopt(session, row))
            continue
        if kind == "image" and row.kind in (persistence.PERSISTENT, persistence.GOLDEN):
            renamed.append(persistence.adopt(session, row))
            continue
        if kind == "image":
            images.append(image_claims.adopt(session, row))
            continue
        claim = operations.take_over(session, row)
        if kind == "vm" and row.kind in ("deploy", "terminate"):
            failure = _failure(session, row)
            machine = Machine(claim, specs.load(session.get_one(Vm, row.object_id).spec), failure)
            mark_failing(session, [machine])
            way = "leaving" if row.kind == "terminate" else "back" if failure else "forward"
            machines[way].append(machine)
        elif kind == "vm" and row.kind in ("migrate", "settle"):
            moves.append(move_of(session, session.get_one(Vm, row.object_id), claim))
        elif kind == "vm" and row.kind in BECOMES:
            asked = session.get_one(Operation, row.parent_id).spec
            machine = Machine(claim, specs.load(session.get_one(Vm, row.object_id).spec))
            switched.append((PowerRequest.model_validate(asked), machine))
        elif kind == "vm" and row.kind == REDEPLOY:
            spec = replace(specs.load(session.get_one(Vm, row.object_id).spec), start="running")
            machines["redeployed"].append(Machine(claim, spec))
        elif row.kind == "drain":
            # Over once its machines are; the host stays disabled.
            claims["batch"].append(claim)
        else:
            claims[kind if kind in claims else "other"].append(claim)
    return Dead(
        tuple(machines["forward"]),
        tuple(machines["back"]),
        tuple(machines["leaving"]),
        tuple(images),
        tuple(moves),
        tuple(claims["other"]),
        tuple(claims["batch"]),
        tuple(switched),
        tuple(claims["scale-test"]),
        tuple(snapshots),
        tuple(resizes),
        tuple(savings),
        tuple(plugs),
        tuple(kept),
        tuple(renamed),
        tuple(machines["redeployed"]),
    )


def read_error(session: Session, operation_id: str) -> str | None:
    """Why an operation failed; None where it did not."""
    return session.get_one(Operation, operation_id).error


def _failure(session: Session, operation: Operation) -> str:
    """Why a dead deployment is taken back; empty where it is taken forward."""
    if operation.kind != "deploy":
        return ""
    if failure := failure_of(session, operation):
        return failure
    parent = session.get(Operation, operation.parent_id)
    together = bool(parent and (parent.spec.get("atomic") or parent.spec.get("scale_test")))
    return DIED if together or operation.attempts > MAX_ATTEMPTS else ""


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: each host with its uplinks, each datastore with the hosts that mount it.

    `parts` are those of datastores that each host has for itself, `nics` the cards of a host's machines, by
    its name.
    """

    site: str
    hosts: tuple[tuple[HostRef, tuple[str, ...]], ...]
    datastores: tuple[tuple[str, tuple[HostRef, ...]], ...]
    parts: tuple[tuple[str, HostRef], ...] = ()
    nics: Mapping[str, tuple[NicSpec, ...]] = field(default_factory=dict)


def read_places(session: Session) -> Places:
    hosts = {h.id: h for h in session.scalars(select(Host).order_by(Host.name))}
    mounts: dict[str, list[HostRef]] = {}
    parts: list[tuple[str, HostRef]] = []
    query = select(Datastore.uri, Datastore.shared, HostDatastore.host_id).join(HostDatastore)
    for uri, shared, host_id in session.execute(query.order_by(Datastore.uri)):
        if shared:
            mounts.setdefault(uri, []).append(host_ref(hosts[host_id]))
        else:
            parts.append((uri, host_ref(hosts[host_id])))
    return Places(
        session.scalars(select(Site.id)).one(),
        tuple((host_ref(h), tuple(h.networks)) for h in hosts.values()),
        tuple((uri, tuple(refs)) for uri, refs in mounts.items()),
        tuple(parts),
        _read_nics(session, hosts),
    )


def _read_nics(session: Session, hosts: Mapping[str, Host]) -> dict[str, tuple[NicSpec, ...]]:
    """Cards of machines that run where the inventory has them."""
    vnets = {vnet.id: vnet_spec(vnet) for vnet in session.scalars(select(Vnet))}
    rules = rules_by_machine(session)
    served = dict(session.execute(select(Router.vm_id, Router.vnet_id)).all())
    query = select(Vm.id, Vm.host_id, Nic.index, Nic.vnet_id, Nic.device, Nic.mac, Nic.address).join(Nic)
    found: dict[str, list[NicSpec]] = {}
    for vm_id, host_id, index, vnet_id, device, mac, address in session.execute(
        query.where(Vm.state.in_(CHARGED), Vm.host_id.is_not(None), Nic.ready)
    ):
        routes = served.get(vm_id) == vnet_id
        nic = NicSpec(index, vnets[vnet_id], device, mac, address, rules.get(vm_id), routes)
        found.setdefault(hosts[str(host_id)].name, []).append(nic)
    return {name: tuple(nics) for name, nics in found.items()}


@dataclass(frozen=True, slots=True)
class Known:
    """A machine as the inventory knows it. `busy`: an operation is open on it."""

    vm_id: str
    name: str
    state: VmState
    desired: Desired
    host: str
    busy: bool
    devices: tuple[str, ...] = ()
    target: str = ""
    """Name of the host that it migrates to."""


@dataclass(slots=True)
class Differences:
    """What to do, by machine id; `report` is what only a person can decide."""

    adopt: dict[str, tuple[VmState, str]] = field(default_factory=dict)
    """Machines that are in another state, or on another host, than we thought."""
    recover: list[str] = field(default_factory=list)
    """Machines that should run, and whose domain crashed or is nowhere."""
    missing: list[str] = field(default_factory=list)
    """Machines whose domain is not where it should be, while not all hosts answer."""
    leftover: list[tuple[str, str]] = field(default_factory=list)
    """(machine id, host name) of machines that ended and of which something is left there."""
    leaving: list[str] = field(default_factory=list)
    """Machines whose removal was not finished."""
    copies: list[tuple[str, str]] = field(default_factory=list)
    """(machine id, host name) of machines that are elsewhere, and have files on that host too."""
    unguarded: list[str] = field(default_factory=list)
    """Machines that run, and whose ports or their rules are not all there."""
    strays: list[tuple[str, str]] = field(default_factory=list)
    """(machine id, host name) of machines that are elsewhere, and have ports on that host too."""
    settle: list[str] = field(default_factory=list)
    """Machines of which it is not known on which of two hosts they are."""
    report: list[Finding] = field(default_factory=list)


def read_known(session: Session) -> list[Known]:
    """Every machine that there ever was: also one that is gone may have left something."""
    busy = set(session.scalars(select(Operation.object_id).where(Operation.open_key.like("vm:%"))))
    devices: dict[str, list[str]] = {}
    for vm_id, device in session.execute(select(Nic.vm_id, Nic.device)):
        devices.setdefault(vm_id, []).append(device)
    hosts: dict[str | None, str] = {row.id: row.name for row in session.execute(select(Host.id, Host.name))}
    # Machines in clouds are compared by vdc/cloud_reconciliation.py.
    here = Vm.host_id.is_not(None)
    rows = session.execute(
        select(Vm.id, Vm.name, Vm.state, Vm.desired, Vm.host_id, Vm.target_host_id).where(here)
    )
    return [
        Known(
            vm_id=i,
            name=name,
            state=VmState(state),
            desired=Desired(desired),
            host=hosts[host],
            busy=i in busy,
            devices=tuple(devices.get(i, ())),
            target=hosts.get(target, ""),
        )
        for i, name, state, desired, host, target in rows
    ]


def read_volume_files(session: Session) -> dict[str, str]:
    """Files of all volumes that there ever were, each with the id of the machine that has it, or empty."""
    query = select(Volume.file, Disk.vm_id).join_from(Volume, Disk, Disk.volume_id == Volume.id, isouter=True)
    return {file: vm_id or "" for file, vm_id in session.execute(query)}


def compare(
    site: str, known: Iterable[Known], world: World, volumes: Mapping[str, str] | None = None
) -> Differences:
    """How the inventory and the world differ. Pure; machines with an open operation are passed over.

    `volumes` are files of disks that are not their machine's alone, each with the machine that has it.
    """
    volumes = volumes or {}
    machines = {k.vm_id: k for k in known}
    found = Differences()
    unseen = {h.host.name for h in world.hosts if h.error}
    for host in world.hosts:
        if host.error:
            found.report.append(Finding("host unreachable", f"host/{host.host.name}", "-", host.error))
    at: dict[str, list[tuple[str, DomainSeen]]] = {}
    for host in world.hosts:
        for domain in host.domains:
            if domain.site != site:
                continue
            if domain.vm_id not in machines:
                found.report.append(
                    Finding("domain of ours that the inventory does not know", domain.name, host.host.name,
                            "left alone: remove it by hand if you are sure")
                )  # fmt: skip
                continue
            at.setdefault(domain.vm_id, []).append((host.host.name, domain))
    for machine in machines.values():
        if not machine.busy:
            if machine.state is VmState.MIGRATING:
                if not {machine.host, machine.target} & unseen:
                    found.settle.append(machine.vm_id)
                continue
            _compare_one(machine, at.get(machine.vm_id, []), bool(unseen), machine.host in unseen, found)
    _leftover_files(machines, world, found)
    _unknown_volumes(volumes, world, found)
    _copies(machines, at, volumes, world, found)
    _leftover_ports(machines, world, found)
    _ports(machines, at, world, found)
    return found


def _compare_one(
    machine: Known,
    seen: Sequence[tuple[str, DomainSeen]],
    some_unseen: bool,
    host_unseen: bool,
    found: Differences,
) -> None:
    if machine.state is VmState.TERMINATING:
        if not host_unseen:
            found.leaving.append(machine.vm_id)
        return
    if machine.state not in HOLDING:
        found.leftover += [(machine.vm_id, host) for host, _ in seen]
        return
    if machine.state is VmState.HELD:
        found.report += [
            Finding("machine on hold is not off", f"vm/{machine.name}", host, f"left alone: it is {d.state}")
            for host, d in seen
            if d.state != "stopped"
        ]
    if machine.state not in SETTLED_STATES:
        return
    if len(seen) > 1:
        hosts = ", ".join(host for host, _ in seen)
        found.report.append(
            Finding(
                "machine is defined twice", f"vm/{machine.name}", hosts, "left alone: decide which is right"
            )
        )
    elif not seen:
        if host_unseen:
            return
        (found.missing if some_unseen else found.recover).append(machine.vm_id)
    else:
        host, domain = seen[0]
        if domain.stalled:
            found.report.append(
                Finding("machine stands still: no room for what it writes", f"vm/{machine.name}", host,
                        f"make room in its datastore, then `vdc vm resume {machine.name}`")
            )  # fmt: skip
        if domain.state == "crashed" or (domain.state == "stopped" and machine.state is VmState.MISSING):
            found.recover.append(machine.vm_id)
        elif domain.state in ("running", "paused", "stopped", "suspended") and (
            domain.state != machine.state or host != machine.host
        ):
            found.adopt[machine.vm_id] = (VmState(domain.state), host)


def _leftover_files(machines: Mapping[str, Known], world: World, found: Differences) -> None:
    known = {(i, h) for i, h in found.leftover}
    for store in world.stores:
        for name in sorted(store.files):
            vm_id = name[3:39] if name.startswith("vm-") else ""
            if not vm_id:
                continue
            machine = machines.get(vm_id)
            where = store.host or (machine.host if machine else "")
            if machine is None:
                found.report.append(_unknown_file(name, store))
            elif machine.state not in HOLDING and not machine.busy and (vm_id, where) not in known:
                known.add((vm_id, where))
                found.leftover.append((vm_id, where))


def _unknown_volumes(volumes: Mapping[str, str], world: World, found: Differences) -> None:
    for store in world.stores:
        for name in sorted(store.files):
            if name.startswith("volume-") and name.partition(".part-")[0] not in volumes:
                found.report.append(_unknown_file(name, store))


def _unknown_file(name: str, store: StoreSeen) -> Finding:
    place = f"{store.host}: {store.uri}" if store.host else store.uri
    return Finding("file that the inventory does not know", name, place, "left alone")


def _copies(
    machines: Mapping[str, Known],
    at: Mapping[str, Sequence[tuple[str, DomainSeen]]],
    volumes: Mapping[str, str],
    world: World,
    found: Differences,
) -> None:
    """Files of live machines in the own datastore of a host on which they are not, left by a migration.

    Only where the machine was seen, whole, on its own host: these files are all that there is of no machine.
    """
    parts = [store for store in world.stores if store.host]
    files: dict[str, dict[str, set[str]]] = {store.host: {} for store in parts}
    for store in parts:
        for name in store.files:
            owner = name[3:39] if name.startswith("vm-") else volumes.get(name.partition(".part-")[0], "")
            files[store.host].setdefault(owner, set()).add(name)
    for host, owners in files.items():
        for vm_id in sorted(owners.keys() - {""}):
            machine = machines.get(vm_id)
            if machine is None or machine.busy or machine.state not in SETTLED_STATES:
                continue
            if host == machine.host or [name for name, _ in at.get(vm_id, [])] != [machine.host]:
                continue
            home = files.get(machine.host, {}).get(vm_id, set())
            disks = {name for name in owners[vm_id] if name.startswith("volume-") and ".part-" not in name}
            if disks <= home and any(name.startswith(disk_prefix(vm_id)) for name in home):
                found.copies.append((vm_id, host))


def _leftover_ports(machines: Mapping[str, Known], world: World, found: Differences) -> None:
    live = {d for m in machines.values() for d in m.devices}
    ended = {m.vm_id.replace("-", "")[:10]: m for m in machines.values() if m.state not in HOLDING}
    known = set(found.leftover)
    for host in world.hosts:
        for port in host.ports:
            machine = ended.get(port[2:12])
            if port not in live and machine and (machine.vm_id, host.host.name) not in known:
                known.add((machine.vm_id, host.host.name))
                found.leftover.append((machine.vm_id, host.host.name))


def _ports(
    machines: Mapping[str, Known],
    at: Mapping[str, Sequence[tuple[str, DomainSeen]]],
    world: World,
    found: Differences,
) -> None:
    """Ports of live machines: without their rules where they run, or still there where they are not."""
    owners = {device: machine for machine in machines.values() for device in machine.devices}
    for host in world.hosts:
        unguarded: set[str] = set()
        strays: set[str] = set()
        for device in (*host.unguarded, *host.ports):
            machine = owners.get(device)
            if machine is None or machine.busy or machine.state not in SETTLED_STATES:
                continue
            if [name for name, _ in at.get(machine.vm_id, [])] != [machine.host]:
                continue
            if machine.host != host.host.name:
                strays.add(machine.vm_id)
            elif device in host.unguarded:
                unguarded.add(machine.vm_id)
        found.unguarded += sorted(unguarded)
        found.strays += [(vm_id, host.host.name) for vm_id in sorted(strays)]


def _untouched(session: Session, vm_id: str, since: datetime) -> bool:
    """Whether no operation is open on the machine, or ended after we began to look."""
    touched = session.scalars(
        select(Operation.id)
        .where(Operation.object_id == vm_id)
        .where(or_(Operation.finished_at.is_(None), Operation.finished_at > since))
        .limit(1)
    ).first()
    return touched is None


def claim_machines(
    session: Session,
    kind: str,
    vm_ids: Sequence[str],
    *,
    since: datetime,
    actor: str,
    flow_run_id: str | None = None,
) -> Batch | None:
    """Open a batch on those machines that nobody touched since they were observed; None where none is left.

    A machine to be recovered is to become what is desired, whatever it was deployed as; memory that was kept
    on its host is lost with its domain.
    """
    rows = session.scalars(select(Vm).where(Vm.id.in_(vm_ids)).order_by(Vm.name)).all()
    free = [
        replace(take_next(vm), start=_START.get(vm.desired, vm.desired))
        if kind == "recover"
        else ruled(session, vm)
        if kind == "guard"
        else specs.load(vm.spec)
        for vm in rows
        if _untouched(session, vm.id, since)
    ]
    if not free:
        return None
    label = free[0].name if len(free) == 1 else f"{free[0].name} and {len(free) - 1} more"
    return open_batch(session, kind, label, {}, free, actor=actor, flow_run_id=flow_run_id)


def claim_settling(
    session: Session,
    vm_ids: Sequence[str],
    *,
    since: datetime,
    actor: str,
    flow_run_id: str | None = None,
) -> list[Move]:
    """Open an operation on those machines, on their way between two hosts, that nobody touched since."""
    moves = []
    for vm in migrating(session, vm_ids):
        if _untouched(session, vm.id, since):
            opening = Opening("settle", "vm", vm.id, vm.name, {})
            claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
            moves.append(move_of(session, vm, claim))
    return moves


def claim_unfinished_snapshots(
    session: Session,
    world: World,
    *,
    since: datetime,
    actor: str,
    flow_run_id: str | None = None,
) -> list[SnapshotClaim]:
    """Open an operation for each snapshot that was not made, or not removed, on hosts that answer."""
    seen = [host.host.name for host in world.hosts if not host.error]
    query = (
        select(Snapshot, Vm)
        .join(Vm, Vm.id == Snapshot.vm_id)
        .join(Host, Host.id == Vm.host_id)
        .where(Snapshot.ready.is_(False), Vm.state.in_(AT_REST), Host.name.in_(seen))
        .order_by(Vm.name, Snapshot.label)
    )
    claims: dict[str, SnapshotClaim] = {}
    for row, vm in session.execute(query):
        # One at a time: the machine's other ones are for the next run.
        if vm.id not in claims and _untouched(session, vm.id, since):
            claims[vm.id] = open_removal(session, vm, row, actor, flow_run_id)
    return list(claims.values())


def claim_unfinished_resizes(
    session: Session,
    world: World,
    *,
    since: datetime,
    actor: str,
    flow_run_id: str | None = None,
) -> list[Resize]:
    """Open an operation on each machine of which it is not known what size it has, on hosts that answer."""
    seen = [host.host.name for host in world.hosts if not host.error]
    query = (
        select(Vm)
        .join(Host, Host.id == Vm.host_id)
        .where(Vm.resizing, Vm.state.in_(OPERATIONS[RESIZE]), Host.name.in_(seen))
        .order_by(Vm.name)
    )
    resizes = []
    for vm in session.scalars(query):
        if _untouched(session, vm.id, since):
            opening = Opening(RESIZE, "vm", vm.id, vm.name, {})
            claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
            resizes.append(resize_of(session, vm, claim))
    return resizes


def claim_unfinished_devices(
    session: Session,
    world: World,
    *,
    since: datetime,
    actor: str,
    flow_run_id: str | None = None,
) -> list[Plug]:
    """Open an operation on each machine that has a device half in and half out, on hosts that answer."""
    seen = [host.host.name for host in world.hosts if not host.error]
    at_rest = OPERATIONS[attach.KINDS[attach.DETACH_DISK]]
    query = select(Vm).join(Host, Host.id == Vm.host_id).where(Vm.state.in_(at_rest), Host.name.in_(seen))
    half = (select(t.vm_id).where(t.ready.is_(False)) for t in (Disk, Cdrom, Nic))
    plugs = []
    for vm in session.scalars(query.where(or_(*(Vm.id.in_(ids) for ids in half))).order_by(Vm.name)):
        # One at a time, as everywhere.
        if _untouched(session, vm.id, since):
            row = attach.unready(session, vm.id)[0]
            plugs.append(attach.open_removal(session, vm, row, actor, flow_run_id))
    return plugs


def claim_unfinished_volumes(
    session: Session, *, since: datetime, actor: str, flow_run_id: str | None = None
) -> list[Removal]:
    """Open an operation on each kept disk that was to be removed and could not be."""
    query = select(Volume).where(Volume.state == "removing").order_by(Volume.name)
    return [
        volumes.open_removal(session, volume, {}, actor, flow_run_id)
        for volume in session.scalars(query)
        if _untouched(session, volume.id, since)
    ]


def claim_unfinished_images(
    session: Session, *, since: datetime, actor: str, flow_run_id: str | None = None
) -> list[ImageClaim]:
    """Open an operation on each image that was to be removed and could not be."""
    claims = []
    for image in session.scalars(select(Image).where(Image.state == "deleting").order_by(Image.name)):
        if _untouched(session, image.id, since):
            opening = Opening(image_claims.DELETE, "image", image.id, image.name, {})
            claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
            claims.append(image_claims.leaving(session, image, claim, image_claims.DELETE))
    return claims


def claim_unfinished_switches(
    session: Session, *, since: datetime, actor: str, flow_run_id: str | None = None
) -> list[Switch]:
    """Open an operation on each image whose file was to be renamed and could not be."""
    query = select(Image).where(Image.state == persistence.CHANGING).order_by(Image.name)
    return [
        persistence.reopen(session, image, actor, flow_run_id)
        for image in session.scalars(query)
        if _untouched(session, image.id, since)
    ]


def adopt_states(
    session: Session, adopt: Mapping[str, tuple[VmState, str]], since: datetime, actor: str
) -> list[Finding]:
    """Write down what machines have become by themselves; it is also what they should be from now on."""
    findings = []
    for vm_id, (state, host_name) in adopt.items():
        if not _untouched(session, vm_id, since):
            continue
        vm = session.get_one(Vm, vm_id)
        old = VmState(vm.state)
        claim = operations.open_one(
            session, Opening("adopt", "vm", vm.id, vm.name, {"from": old, "to": state}), actor=actor
        )
        if state is not old:
            check_move(vm.name, old, state)
            # The charge of a machine that was missing meanwhile ended when it was last seen.
            charged_as = old
            if old is VmState.MISSING:
                kept = vm.desired == Desired.SUSPENDED
                charged_as = VmState.SUSPENDED if kept else VmState.STOPPED
            if kind := usage_kind(charged_as, state):
                session.add(vm_event(vm, claim, kind, since, host_name))
        host = session.scalars(select(Host).where(Host.name == host_name)).one()
        vm.state, vm.desired, vm.host_id = state, Desired(state), host.id
        vm.spec = specs.dump(replace(specs.load(vm.spec), host=host_ref(host)))
        operations.close(session, claim)
        findings.append(Finding(f"was {old}, is {state}", f"vm/{vm.name}", host_name, f"adopted as {state}"))
    return findings


def record_recovered(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Machines that are back: the charge pauses from when they were last seen until now."""
    for outcome in held(session, outcomes):
        vm = session.get_one(Vm, outcome.spec.vm_id)
        if not outcome.error:
            # What was charged is what was desired.
            if SETTLED[Desired(vm.desired)] in CHARGED:
                if vm.state != VmState.MISSING:  # else its loss is written down
                    last_seen = vm.observed_at or vm.created_at
                    session.add(vm_event(vm, outcome.claim, "stopped", last_seen, outcome.spec.host.name))
                session.add(vm_event(vm, outcome.claim, "started", outcome.at, outcome.spec.host.name))
            elif vm.desired == Desired.SUSPENDED:  # its memory was on the host
                session.add(vm_event(vm, outcome.claim, "stopped", outcome.at, outcome.spec.host.name))
            vm.desired = _START.get(vm.desired, vm.desired)
            vm.state = SETTLED[Desired(vm.desired)]
            vm.observed, vm.observed_at = vm.state, outcome.at
        operations.close(session, outcome.claim, error=outcome.error or None)


def record_cleaned(session: Session, outcomes: Sequence[Outcome]) -> None:
    """Leftovers that were removed: the machines had ended long before."""
    for outcome in held(session, outcomes):
        operations.close(session, outcome.claim, error=outcome.error or None)


def record_seen(
    session: Session, world: World, differences: Differences, since: datetime, actor: str
) -> None:
    """Write down when machines and hosts were last seen, and which machines are missing."""
    for host in world.hosts:
        if host.error:
            continue
        session.execute(
            update(Host).where(Host.name == host.host.name).values(observed_at=since, load_1m=host.load_1m)
        )
        by_state: dict[str, list[str]] = {}
        for domain in host.domains:
            by_state.setdefault(domain.state, []).append(domain.vm_id)
        for state, vm_ids in by_state.items():
            session.execute(
                update(Vm)
                .where(Vm.id.in_(vm_ids), Vm.state.in_(SETTLED_STATES))
                .values(observed=state, observed_at=since)
            )
    for store in world.stores:
        record_use(session, store.uri, store.seen_by, store.use)
    for vm_id in differences.missing:
        if _untouched(session, vm_id, since):
            _record_missing(session, session.get_one(Vm, vm_id), actor)


def _record_missing(session: Session, vm: Vm, actor: str) -> None:
    """Its host answers and does not have it: the charge ends when it was last seen."""
    if vm.state in CHARGED:
        last_seen = vm.observed_at or vm.created_at
        claim = operations.open_one(session, Opening("lose", "vm", vm.id, vm.name, {}), actor=actor)
        session.add(vm_event(vm, claim, "lost", last_seen, specs.load(vm.spec).host.name))
        operations.close(session, claim)
    vm.state = VmState.MISSING
