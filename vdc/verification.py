"""What must hold in the inventory, and what to look at on hosts: whether a platform is sound.

Hosts and inventory are compared as reconcile does (vdc/reconciliation.py). Nothing is mended here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import specs
from vdc.claims.deploy import host_ref
from vdc.model import HostRef, VmSpec
from vdc.reconciliation import Differences, Known
from vdc.schema import (
    Datastore,
    Host,
    HostDatastore,
    Image,
    Nic,
    Operation,
    Snapshot,
    Tenant,
    UsageEvent,
    Vm,
    Vnet,
)
from vdc.states import HOLDING, VmState
from vdc.usage import QUOTA_WORDS, host_loads, tenant_use


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must hold, and what is wrong with it; without problems it does."""

    name: str
    problems: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        return "FAIL" if self.problems else "PASS"


@dataclass(frozen=True, slots=True)
class Verified:
    """All checks, and the checksum of each golden image by `datastore/file`."""

    checks: tuple[Check, ...]
    images: dict[str, str]


@dataclass(frozen=True, slots=True)
class MachineToCheck:
    """A machine with something on a host, and the ids of its snapshots; `off`: nobody has its disks open."""

    spec: VmSpec
    snapshots: frozenset[str]
    off: bool


@dataclass(frozen=True, slots=True)
class ImageToCheck:
    name: str
    uri: str
    file: str
    hosts: tuple[HostRef, ...]
    """That mount its datastore."""


def open_operations(session: Session, besides: str = "") -> list[str]:
    """Operations that are not over, but for that one."""
    rows = session.scalars(select(Operation).where(Operation.finished_at.is_(None), Operation.id != besides))
    return [f"{row.kind} of {row.object} by {row.requested_by} is open (operation {row.id})" for row in rows]


def unsound_addresses(session: Session) -> list[str]:
    """Addresses that were given twice, or that a machine holds which has ended."""
    twice = (
        select(Vnet.name, Nic.address)
        .join(Vnet, Vnet.id == Nic.vnet_id)
        .group_by(Vnet.name, Nic.address)
        .having(func.count() > 1)
    )
    ended = select(Vm.name, Nic.address).join(Nic, Nic.vm_id == Vm.id).where(Vm.state.not_in(HOLDING))
    return [f"{address} of network {vnet} is given twice" for vnet, address in session.execute(twice)] + [
        f"vm/{name} has ended and holds {address}" for name, address in session.execute(ended)
    ]


def unsound_use(session: Session) -> list[str]:
    """Hosts that carry more than they have, tenants that hold more than they may."""
    found = []
    for host in host_loads(session):
        if host.vcpu_used > host.vcpu:
            found.append(f"host/{host.name} carries {host.vcpu_used} vCPU of {host.vcpu:g}")
        if host.memory_mib_used > host.memory_mib:
            found.append(f"host/{host.name} carries {host.memory_mib_used} MiB of {host.memory_mib:g}")
    for tenant in session.scalars(select(Tenant).order_by(Tenant.name)):
        use = tenant_use(session, tenant.id)
        for name, word in QUOTA_WORDS:
            limit, used = getattr(tenant, f"max_{name}"), getattr(use, name)
            if limit is not None and used > limit:
                found.append(f"tenant/{tenant.name} holds {used} of {limit} {word}")
    return found


def told(differences: Differences, known: Iterable[Known]) -> list[str]:
    """A comparison in sentences; none where hosts and inventory agree. Pure."""
    machines = {k.vm_id: k for k in known}

    def name(vm_id: str) -> str:
        return f"vm/{machines[vm_id].name}"

    lines = [f"{f.object} on {f.host}: {f.what}" for f in differences.report]
    for vm_id, (state, host) in differences.adopt.items():
        machine = machines[vm_id]
        lines.append(f"{name(vm_id)} is {state} on {host}, not {machine.state} on {machine.host}")
    lines += [f"{name(i)} has no domain, or one that crashed" for i in differences.recover]
    lines += [f"{name(i)} is nowhere to be seen" for i in differences.missing]
    lines += [f"{name(i)} has ended and left something on {host}" for i, host in differences.leftover]
    lines += [f"{name(i)} has left a disk on {host}" for i, host in differences.copies]
    lines += [f"{name(i)} was to be removed and is not" for i in differences.leaving]
    lines += [f"{name(i)} is on one of two hosts, and it is not known which" for i in differences.settle]
    return lines


def machines_to_check(session: Session) -> list[MachineToCheck]:
    """Machines at rest with disks on hosts, by name. Those with an open operation are passed over."""
    made = set(session.scalars(select(UsageEvent.vm_id).where(UsageEvent.kind == "created")))
    busy = set(session.scalars(select(Operation.object_id).where(Operation.open_key.like("vm:%"))))
    snapshots: dict[str, set[str]] = {}
    for vm_id, snapshot in session.execute(select(Snapshot.vm_id, Snapshot.id)):
        snapshots.setdefault(vm_id, set()).add(snapshot)
    rest = (VmState.RUNNING, VmState.PAUSED, VmState.STOPPED, VmState.SUSPENDED, VmState.HELD)
    rows = session.scalars(
        select(Vm).where(Vm.state.in_(rest), Vm.host_id.is_not(None)).order_by(Vm.name)
    ).all()
    return [
        MachineToCheck(
            specs.load(vm.spec),
            frozenset(snapshots.get(vm.id, ())),
            vm.state not in (VmState.RUNNING, VmState.PAUSED),
        )
        for vm in rows
        if vm.id in made and vm.id not in busy
    ]


def images_to_check(session: Session) -> list[ImageToCheck]:
    """Images that are whole and that nobody writes to, by name."""
    hosts: dict[str, list[HostRef]] = {}
    mounts = select(HostDatastore.datastore_id, Host).join(Host, Host.id == HostDatastore.host_id)
    for datastore_id, host in session.execute(mounts.order_by(Host.name)):
        hosts.setdefault(datastore_id, []).append(host_ref(host))
    query = select(Image, Datastore.uri).join(Datastore, Datastore.id == Image.datastore_id)
    query = query.where(Image.state == "ready", Image.persistent.is_(False)).order_by(Image.name)
    return [
        ImageToCheck(image.name, uri, image.file, tuple(hosts.get(image.datastore_id, ())))
        for image, uri in session.execute(query)
    ]


def merged(stages: Sequence[tuple[str, Sequence[Check]]], before: Sequence[Check]) -> list[Check]:
    """Checks that were made several times as one each: what is wrong, and when that was first seen.

    What was wrong `before` is left out. Pure.
    """
    known = {(check.name, problem) for check in before for problem in check.problems}
    names = list(dict.fromkeys(check.name for _, checks in stages for check in checks))
    found: dict[str, list[str]] = {name: [] for name in names}
    for stage, checks in stages:
        for check in checks:
            for problem in check.problems:
                if (check.name, problem) not in known:
                    known.add((check.name, problem))
                    found[check.name].append(f"{problem} ({stage})")
    return [Check(name, tuple(problems)) for name, problems in found.items()]
