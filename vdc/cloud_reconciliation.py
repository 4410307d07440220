"""How the inventory and the clouds differ, and what is written down about it.

As with hosts: a cloud that does not answer concludes nothing, and instances without our site's tag are not
ours. Unlike a domain, an instance that is gone has taken its disk along: it is reported, not made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from vdc import operations
from vdc.model import InstanceSeen
from vdc.operations import Opening
from vdc.reconciliation import SETTLED_STATES, Finding, _untouched
from vdc.schema import Cloud, Operation, Vm
from vdc.states import HOLDING, Desired, VmState, check_move
from vdc.usage_events import vm_event


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """A cloud's answer: our site's instances. With an `error` nothing is known."""

    name: str
    error: str = ""
    instances: tuple[InstanceSeen, ...] = ()


@dataclass(frozen=True, slots=True)
class KnownInstance:
    """A machine in a cloud as the inventory knows it. `busy`: an operation is open on it."""

    vm_id: str
    name: str
    state: VmState
    cloud: str
    instance_id: str | None
    busy: bool


@dataclass(slots=True)
class CloudDifferences:
    """What to do, by machine id; `report` is what only a person can decide."""

    adopt: dict[str, VmState] = field(default_factory=dict)
    """Machines that are in another state than we thought; `missing` where the instance is gone."""
    leaving: list[str] = field(default_factory=list)
    leftover: list[str] = field(default_factory=list)
    """Machines that ended and of which an instance runs on, and costs."""
    report: list[Finding] = field(default_factory=list)


def read_clouds(session: Session) -> list[tuple[str, str]]:
    """Name and URI of each cloud."""
    return [(name, uri) for name, uri in session.execute(select(Cloud.name, Cloud.uri).order_by(Cloud.name))]


def read_known(session: Session) -> list[KnownInstance]:
    """Every machine that there ever was in a cloud."""
    busy = set(session.scalars(select(Operation.object_id).where(Operation.open_key.like("vm:%"))))
    query = select(Vm.id, Vm.name, Vm.state, Cloud.name, Vm.instance_id).join(Cloud, Cloud.id == Vm.cloud_id)
    return [
        KnownInstance(vm_id, name, VmState(state), cloud, instance_id, vm_id in busy)
        for vm_id, name, state, cloud, instance_id in session.execute(query)
    ]


def compare(known: Iterable[KnownInstance], clouds: Iterable[CloudSeen]) -> CloudDifferences:
    """Pure; machines with an open operation are passed over."""
    found = CloudDifferences()
    machines = {k.vm_id: k for k in known}
    for cloud in clouds:
        if cloud.error:
            found.report.append(Finding("cloud unreachable", f"cloud/{cloud.name}", "-", cloud.error))
            continue
        live: dict[str, list[InstanceSeen]] = {}
        for instance in cloud.instances:
            machine = machines.get(instance.vm_id)
            if machine is None or machine.cloud != cloud.name:
                found.report.append(_finding("instance that the inventory does not know", cloud, instance))
            else:
                live.setdefault(machine.vm_id, []).append(instance)
        for machine in machines.values():
            if machine.cloud == cloud.name and not machine.busy:
                _compare_one(machine, live.get(machine.vm_id, []), cloud, found)
    return found


def _finding(what: str, cloud: CloudSeen, instance: InstanceSeen) -> Finding:
    host = f"{cloud.name}/{instance.zone}"
    return Finding(what, instance.instance_id, host, "left alone: terminate it by hand if you are sure")


def _compare_one(
    machine: KnownInstance, live: Sequence[InstanceSeen], cloud: CloudSeen, found: CloudDifferences
) -> None:
    if machine.state is VmState.TERMINATING:
        found.leaving.append(machine.vm_id)
    elif machine.state not in HOLDING:
        if live:
            found.leftover.append(machine.vm_id)
    elif machine.state in SETTLED_STATES:
        ours = next((i for i in live if i.instance_id == machine.instance_id), None)
        found.report += [_finding("second instance of a machine", cloud, i) for i in live if i is not ours]
        if ours is None:
            state = VmState.MISSING
        else:
            state = VmState.STOPPED if ours.state == "stopped" else VmState.RUNNING
        if state is not machine.state:
            found.adopt[machine.vm_id] = state


def record_seen(session: Session, clouds: Iterable[CloudSeen], since: datetime) -> None:
    """Write down when instances were last seen, and at which address."""
    for instance in (i for cloud in clouds for i in cloud.instances):
        session.execute(
            update(Vm)
            .where(Vm.instance_id == instance.instance_id, Vm.state.in_(SETTLED_STATES))
            .values(observed=instance.state, observed_at=since, cloud_address=instance.address or None)
        )


def adopt_states(
    session: Session, adopt: Mapping[str, VmState], since: datetime, actor: str
) -> list[Finding]:
    """Write down what machines have become by themselves; what does not run is not charged."""
    findings = []
    for vm_id, state in adopt.items():
        if not _untouched(session, vm_id, since):
            continue
        vm = session.get_one(Vm, vm_id)
        cloud = session.get_one(Cloud, vm.cloud_id)
        host, old = f"{cloud.name}/{vm.zone}", VmState(vm.state)
        check_move(vm.name, old, state)
        opening = Opening("adopt", "vm", vm.id, vm.name, {"from": old, "to": state})
        claim = operations.open_one(session, opening, actor=actor)
        if (state is VmState.RUNNING) != (old is VmState.RUNNING):
            kind = "started" if state is VmState.RUNNING else "stopped"
            # One that is gone is charged until it was last seen.
            at = (vm.observed_at or since) if state is VmState.MISSING else since
            session.add(vm_event(vm, claim, kind, at, host))
        vm.state = state
        if state is VmState.MISSING:
            vm.observed = None
            action = f"instance {vm.instance_id} is gone with its disk: terminate the machine, deploy it anew"
        else:
            vm.desired = Desired(state)
            action = f"adopted as {state}"
        operations.close(session, claim)
        findings.append(Finding(f"was {old}, is {state}", f"vm/{vm.name}", host, action))
    return findings
