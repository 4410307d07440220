"""The claim of a burn-in, its machines and its disks: all whose names begin as its seed says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, select
from sqlalchemy.orm import Session

from vdc import burnin, operations
from vdc.burnin import Kept, Seen
from vdc.claims.deploy import DeployPlan, claim_deploy
from vdc.errors import Conflict, Invalid
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.pricing import ListPrices
from vdc.requests import BurninRequest, DeployRequest
from vdc.schema import Disk, Host, Nic, Site, Snapshot, Tenant, Vm, Vnet, Volume
from vdc.states import HOLDING, VmState

MAX_OPERATIONS = 100_000
MAX_USERS = 16
MAX_SEED = 10**9


@dataclass(frozen=True, slots=True)
class Burnin:
    """A burn-in that may begin; `plan` is what as many machines as it may have would take."""

    claim: Claim
    request: BurninRequest
    plan: DeployPlan
    hosts: tuple[str, ...]
    """Names of those in service, to migrate to."""


def claim_burnin(
    session: Session,
    request: BurninRequest,
    *,
    actor: str,
    prices: ListPrices,
    flow_run_id: str | None = None,
) -> Burnin:
    """Open the site's one burn-in. Raises Refused where its machines would not fit."""
    for what, value, least, most in (
        ("operations", request.operations, 1, MAX_OPERATIONS),
        ("users", request.users, 1, MAX_USERS),
        ("machines", request.max_machines, 1, MAX_OPERATIONS),
        ("as seed", request.seed, 0, MAX_SEED),
    ):
        if not least <= value <= most:
            raise Invalid(f"{value} {what} is refused: {least} to {most}.")
    site = session.scalars(select(Site.id)).one()
    opening = Opening("burnin", "burnin", site, str(request.seed), request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    if left := names_of(session, request):
        raise Conflict(
            f"What an earlier burn-in with this seed made is there ({', '.join(left)}): "
            f"`vdc burnin remove --seed {request.seed}` removes them."
        )
    tried = DeployRequest(
        template=request.template, count=request.max_machines, tenant=request.tenant, name="burnin-trial"
    )
    with session.begin_nested() as trial:
        planned = claim_deploy(session, tried, actor=actor, prices=prices)
        trial.rollback()
    assert planned.plan is not None, "no flow run, so that nothing was adopted"
    hosts = session.scalars(select(Host.name).where(Host.state == "enabled").order_by(Host.name))
    return Burnin(claim, request, planned.plan, tuple(hosts))


def machines_of(session: Session, request: BurninRequest) -> tuple[Seen, ...]:
    """The burn-in's machines that hold a place, in the order of their deployment."""
    tenant = find(session, Tenant, "tenant", request.tenant)
    mine = Vm.name.like(f"{burnin.prefix(request.seed)}%")
    query = (
        select(Vm.id, Vm.name, Vm.state, Vm.protected, Host.name)
        .outerjoin(Host, Host.id == Vm.host_id)
        .where(mine, Vm.tenant_id == tenant.id, Vm.state.in_(HOLDING))
        .order_by(Vm.created_at, Vm.name)
    )
    rows = session.execute(query).all()
    ids = [row[0] for row in rows]

    def grouped(query: Executable) -> dict[str, list[Any]]:
        """By the id of the machine, which is the first column; of two more a pair."""
        found: dict[str, list[Any]] = {}
        for vm_id, *told in session.execute(query):
            found.setdefault(vm_id, []).append(tuple(told) if len(told) > 1 else told[0])
        return found

    snapshots = grouped(
        select(Snapshot.vm_id, Snapshot.label).where(Snapshot.vm_id.in_(ids)).order_by(Snapshot.label)
    )
    disks = grouped(
        select(Disk.vm_id, Volume.name)
        .join(Volume, Volume.id == Disk.volume_id)
        .where(Disk.vm_id.in_(ids))
        .order_by(Disk.index)
    )
    cards = grouped(
        select(Nic.vm_id, Vnet.name, Nic.mac)
        .join(Vnet, Vnet.id == Nic.vnet_id)
        .where(Nic.vm_id.in_(ids))
        .order_by(Nic.index)
    )
    return tuple(
        Seen(
            name,
            VmState(state),
            host or "",
            protected,
            tuple(snapshots.get(vm_id, ())),
            tuple(disks.get(vm_id, ())),
            tuple(cards.get(vm_id, ())),
        )
        for vm_id, name, state, protected, host in rows
    )


def kept_of(session: Session, request: BurninRequest) -> tuple[Kept, ...]:
    """The burn-in's disks that no machine has, by name."""
    tenant = find(session, Tenant, "tenant", request.tenant)
    query = (
        select(Volume.name, Host.name)
        .join(Host, Host.id == Volume.host_id)
        .where(Volume.name.like(f"{burnin.prefix(request.seed)}%"), Volume.tenant_id == tenant.id)
        .where(Volume.state.in_(("kept", "removing")))
        .order_by(Volume.name)
    )
    return tuple(Kept(name, host) for name, host in session.execute(query))


def names_of(session: Session, request: BurninRequest) -> list[str]:
    """Of its machines that hold a place, and of its disks that no machine has."""
    machines = [seen.name for seen in machines_of(session, request)]
    return machines + [disk.name for disk in kept_of(session, request)]


def out_directory(request: BurninRequest, out: str, home: Path, began: str) -> Path:
    """Where log and summary go."""
    return Path(out) if out else home / "burnin" / f"seed-{request.seed}-{began}"
