"""Offboarding: what is removed of a tenant, what is kept, and the proof that nothing else is left.

Bills stay, and what they rest on: the tenant's row with the address that bills name, usage events, rows of
machines that ended, the journal. Everything else goes, personal data first: accounts, keys, tokens, and the
names of users wherever the journal has them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import delete, func, or_, select, update
from sqlalchemy.orm import Session

from vdc import operations, secrets, specs
from vdc.access import asking, check
from vdc.accounts import revoke_tokens
from vdc.claims.images import DELETE as DELETE_IMAGE
from vdc.claims.images import ImageClaim, claim_of, image_use, leaving, named
from vdc.claims.volumes import Removal, open_removal
from vdc.disk_export import LeavingDisk, Room, check_room, disks_of
from vdc.errors import Invalid, InvalidState
from vdc.model import ContextSpec
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.requests import OffboardTenantRequest
from vdc.schema import (
    Base,
    Bill,
    Image,
    LoginFailure,
    Operation,
    Refusal,
    Router,
    SecurityGroup,
    Share,
    Template,
    Tenant,
    Token,
    UsageEvent,
    User,
    Vm,
    Vnet,
    Volume,
    utc_now,
)
from vdc.states import HOLDING

OFFBOARD = "offboard"
"""Kind of the operation."""

KEPT = frozenset({"bills", "credit_notes", "usage_events", "operations", "refusals", "vms", "volumes"})
"""Tables in which rows of a tenant that is gone stay; of machines and disks only those that ended."""

LIVE = {"vms": HOLDING, "volumes": frozenset({"attached", "kept", "removing"})}


@dataclass(frozen=True, slots=True)
class Leaving:
    """The right to remove a tenant. `machines` are ids and names of those that hold a place."""

    claim: Claim
    tenant_id: str
    tenant: str
    machines: tuple[tuple[str, str], ...]
    disks: tuple[str, ...]
    """Kept ones; those of machines go with them."""
    images: tuple[str, ...]
    users: tuple[str, ...]
    templates: tuple[str, ...]
    vnets: tuple[str, ...]
    exported_disks: tuple[LeavingDisk, ...]


@dataclass(frozen=True, slots=True)
class Offboarded:
    """What was removed, by name, and how many rows of the tenant are left in each table: the proof."""

    tenant: str
    export: str
    machines: tuple[str, ...]
    disks: tuple[str, ...]
    images: tuple[str, ...]
    users: tuple[str, ...]
    templates: tuple[str, ...]
    vnets: tuple[str, ...]
    left: dict[str, int]
    kept: dict[str, int]


def claim_offboard(
    session: Session,
    request: OffboardTenantRequest,
    room: Room,
    *,
    actor: str,
    flow_run_id: str | None = None,
) -> Leaving:
    """Open the operation; from now on the tenant gets nothing new, and its users are out.

    `room`: what there is for the export. Raises Refused: InvalidState for a tenant with machines
    unless `with_machines`, with protected ones, or whose image others use; with `with_disks` also while its
    machines may write to them; NoCapacity where these may not fit.
    """
    if begun := operations.open_of_run(session, OFFBOARD, flow_run_id):
        tenant = session.get_one(Tenant, begun.object_id)
        return _leaving(session, tenant, operations.take_over(session, begun), request)
    tenant = find(session, Tenant, "tenant", request.tenant)
    check(session, "tenant.offboard", tenant.name, tenant.id)
    _check(session, tenant, request)
    if request.with_disks:
        check_room(disks_of(session, tenant), room)
    opening = Opening(OFFBOARD, "tenant", tenant.id, tenant.name, request.model_dump(mode="json"))
    claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
    tenant.state = "leaving"
    for user in session.scalars(select(User).where(User.tenant_id == tenant.id)):
        user.state = "disabled"
        revoke_tokens(session, user)
    return _leaving(session, tenant, claim, request)


def _check(session: Session, tenant: Tenant, request: OffboardTenantRequest) -> None:
    if tenant.name == "default":
        raise Invalid("Tenant default is the site's own: it stays.")
    if tenant.state == "gone":
        raise InvalidState(f"Tenant {tenant.name} is gone already; its bills are kept.")
    if asking(session).tenant_id == tenant.id:
        raise Invalid(f"{asking(session).name} belongs to tenant {tenant.name}: ask another administrator.")
    if not request.export:
        raise Invalid("Say where the tenant's data is exported to: a directory.")
    live = select(Vm).where(Vm.tenant_id == tenant.id, Vm.state.in_(HOLDING)).order_by(Vm.name)
    vms = session.scalars(live).all()
    routers = set(session.scalars(select(Router.vm_id).where(Router.tenant_id == tenant.id)))
    theirs = [vm.name for vm in vms if vm.id not in routers]
    if theirs and not request.with_machines:
        raise InvalidState(
            f"Tenant {tenant.name} has {named('machine', theirs)}: terminate them first, or "
            "say that they go too (--with-machines)."
        )
    if protected := [vm.name for vm in vms if vm.protected]:
        raise InvalidState(
            f"Of tenant {tenant.name}, {named('machine', protected)} cannot go: protected against deletion."
        )
    for image in session.scalars(select(Image).where(Image.tenant_id == tenant.id)):
        if others := _others(session, image, tenant):
            raise InvalidState(f"Image {image.name} of tenant {tenant.name} is in use by others: {others}.")


def _others(session: Session, image: Image, tenant: Tenant) -> str:
    use = image_use(session, image)
    theirs = set(session.scalars(select(Template.name).where(Template.tenant_id == tenant.id)))
    theirs |= set(session.scalars(select(Vm.name).where(Vm.tenant_id == tenant.id)))
    return ", ".join(name for name in (*use.templates, *use.vms, *use.clouds) if name not in theirs)


def _leaving(session: Session, tenant: Tenant, claim: Claim, request: OffboardTenantRequest) -> Leaving:
    def names(table: Any) -> tuple[str, ...]:
        query = select(table.name).where(table.tenant_id == tenant.id).order_by(table.name)
        return tuple(session.scalars(query))

    live = select(Vm.id, Vm.name).where(Vm.tenant_id == tenant.id, Vm.state.in_(HOLDING)).order_by(Vm.name)
    machines = tuple((vm_id, name) for vm_id, name in session.execute(live))
    disks = tuple(volume.name for volume in _volumes(session, tenant.id))
    return Leaving(
        claim,
        tenant.id,
        tenant.name,
        machines,
        disks,
        names(Image),
        names(User),
        names(Template),
        names(Vnet),
        disks_of(session, tenant) if request.with_disks else (),
    )


def _volumes(session: Session, tenant_id: str) -> Sequence[Volume]:
    """Those that no machine has."""
    theirs = select(Volume).where(Volume.tenant_id == tenant_id, Volume.state.in_(("kept", "removing")))
    return session.scalars(theirs.order_by(Volume.name)).all()


def read_export(session: Session, tenant_id: str) -> dict[str, list[dict[str, Any]]]:
    """What the tenant's data is, a table each; no hash of a password or token is in it."""

    def rows(table: type[Base], *without: str, order: Any) -> list[dict[str, Any]]:
        columns: Any = table
        query = select(table.__table__).where(columns.tenant_id == tenant_id).order_by(order)
        return [
            {key: value for key, value in row.items() if key not in without}
            for row in session.execute(query).mappings()
        ]

    return {
        "accounts": rows(User, "password_hash", order=User.name),
        "machines": rows(Vm, "live_name", order=Vm.created_at),
        "disks": rows(Volume, "live_name", order=Volume.created_at),
        "usage": rows(UsageEvent, order=UsageEvent.at),
        "bills": rows(Bill, order=Bill.number),
        "journal": rows(Operation, "owner", "open_key", "epoch", order=Operation.started_at),
    }


def claim_volumes(
    session: Session, tenant_id: str, *, actor: str, flow_run_id: str | None = None
) -> list[Removal]:
    """Open the removal of the tenant's kept disks."""
    return [open_removal(session, volume, {}, actor, flow_run_id) for volume in _volumes(session, tenant_id)]


def claim_images(
    session: Session, tenant_id: str, *, actor: str, flow_run_id: str | None = None
) -> list[ImageClaim]:
    """Open the removal of the tenant's images; its templates go first, as they stand on them."""
    session.execute(
        update(Vm)
        .where(Vm.template_id.in_(select(Template.id).where(Template.tenant_id == tenant_id)))
        .values(template_id=None)
    )
    session.execute(delete(Template).where(Template.tenant_id == tenant_id))
    claims = []
    for image in session.scalars(select(Image).where(Image.tenant_id == tenant_id).order_by(Image.name)):
        opening = Opening(DELETE_IMAGE, "image", image.id, image.name, {})
        claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
        leaving(session, image, claim, DELETE_IMAGE)
        claims.append(claim_of(session, image, claim, DELETE_IMAGE))
    return claims


def record_offboarded(session: Session, done: Leaving, export: str) -> Offboarded:
    """Erase what is personal, forget the rest, prove it, and close the operation.

    Raises InvalidState where something of the tenant is left, and Superseded where another process took the
    operation over: nothing is written then.
    """
    users = session.scalars(select(User).where(User.tenant_id == done.tenant_id)).all()
    for user in users:
        _erase(session, user, done.tenant_id)
    session.execute(delete(Share).where(Share.tenant_id == done.tenant_id))
    session.execute(delete(Vnet).where(Vnet.tenant_id == done.tenant_id))
    session.execute(delete(SecurityGroup).where(SecurityGroup.tenant_id == done.tenant_id))
    for vm in session.scalars(select(Vm).where(Vm.tenant_id == done.tenant_id)):
        spec = specs.load(vm.spec)
        vm.spec = specs.dump(replace(spec, context=ContextSpec(spec.context.hostname)))
    secrets.forget_all(session, done.tenant_id)
    tenant = session.get_one(Tenant, done.tenant_id)
    tenant.context = {}
    tenant.state, tenant.ended_at = "gone", utc_now()
    session.flush()
    left, kept = _count(session, done.tenant_id)
    if left:
        rows = ", ".join(f"{count} in {table}" for table, count in left.items())
        raise InvalidState(f"Something of tenant {done.tenant} is left: {rows}. Run it again.")
    operations.close(session, done.claim, result={"left": left, "kept": kept})
    return Offboarded(
        done.tenant,
        export,
        tuple(name for _, name in done.machines),
        done.disks,
        done.images,
        done.users,
        done.templates,
        done.vnets,
        left,
        kept,
    )


def _count(session: Session, tenant_id: str) -> tuple[dict[str, int], dict[str, int]]:
    """Rows that name the tenant, by table: those that must not be, and those that are kept."""
    left: dict[str, int] = {}
    kept: dict[str, int] = {}
    for table in Base.metadata.sorted_tables:
        if "tenant_id" not in table.c:
            continue
        query = select(func.count()).select_from(table).where(table.c.tenant_id == tenant_id)
        count = session.scalar(query) or 0
        if live_states := LIVE.get(table.name):
            live = session.scalar(query.where(table.c.state.in_(live_states))) or 0
            count -= live
            if live:
                left[table.name] = live
        if count:
            (kept if table.name in KEPT else left)[table.name] = count
    return left, kept


def _erase(session: Session, user: User, tenant_id: str) -> None:
    """Nothing tells any more who it was; what they did is told of `erased-...`."""
    pseudonym = f"erased-{user.id[:8]}"
    word = re.compile(rf"(?<![a-z0-9-]){re.escape(user.name)}(?![a-z0-9-])")
    by_or_about = or_(
        Operation.user_id == user.id,
        Operation.object_id == user.id,
        Operation.requested_by == user.name,
        Operation.object_id == tenant_id,
        (Operation.tenant_id == tenant_id) & Operation.kind.in_(("share", "unshare")),
    )
    for row in session.scalars(select(Operation).where(by_or_about)):
        if row.user_id == user.id or row.requested_by == user.name:
            row.requested_by = pseudonym
        if row.object_id == user.id:
            row.object = f"user/{pseudonym}"
        if row.object_id in (user.id, tenant_id) or row.kind in ("share", "unshare"):
            row.spec = json.loads(word.sub(pseudonym, json.dumps(row.spec)))
            row.error = word.sub(pseudonym, row.error) if row.error else row.error
    for refusal in session.scalars(
        select(Refusal).where(
            or_(Refusal.user_id == user.id, Refusal.object.contains(user.name, autoescape=True))
        )
    ):
        if refusal.user_id == user.id:
            refusal.requested_by = pseudonym
        refusal.object = word.sub(pseudonym, refusal.object)
        refusal.error = word.sub(pseudonym, refusal.error)
    session.execute(update(Vm).where(Vm.owner_id == user.id).values(owner_id=None))
    session.execute(update(Image).where(Image.owner_id == user.id).values(owner_id=None))
    session.execute(update(Template).where(Template.owner_id == user.id).values(owner_id=None))
    session.execute(update(Volume).where(Volume.owner_id == user.id).values(owner_id=None))
    session.execute(delete(Share).where(Share.user_id == user.id))
    session.execute(delete(Token).where(Token.user_id == user.id))
    session.execute(delete(LoginFailure).where(LoginFailure.name == user.name))
    session.delete(user)
    session.flush()
