"""Onboarding: what a tenant is to have, from a file; converged to, with what was changed said.

Everything is in the inventory alone: the claim is the act. A run with the same file changes nothing; with
another one it changes what differs, or refuses where machines stand in the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import Role
from vdc.accounts import RESERVED
from vdc.addresses import pool
from vdc.claims.deploy import check_sizes, check_usable, claim_deploy
from vdc.claims.routers import claim_create
from vdc.context import read_context
from vdc.errors import Conflict, Invalid, NoCapacity, QuotaExceeded
from vdc.months import check_time_zone
from vdc.names import check_name, find
from vdc.onboarding_router import forwards_to_change, router_to_make
from vdc.operations import Claim, Opening
from vdc.passwords import check_hash
from vdc.pricing import ListPrices
from vdc.requests import CreateRouterRequest, DeployRequest, ForwardPortRequest
from vdc.schema import Image, Nic, SecurityGroup, Template, Tenant, User, Vm, Vnet, new_id
from vdc.security_groups import check_peers, dumped, members_of, parse_line
from vdc.ssh_keys import check_ssh_key
from vdc.usage import QUOTA_WORDS, VM_WORDS, tenant_use
from vdc.vxlan import wire


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Quota(_Part):
    """Limits; one that is left out is none."""

    vms: int | None = Field(default=None, ge=0)
    vcpu: int | None = Field(default=None, ge=0)
    running_vcpu: int | None = Field(default=None, ge=0)
    memory_mib: int | None = Field(default=None, ge=0)
    disk_mib: int | None = Field(default=None, ge=0)
    snapshots: int | None = Field(default=None, ge=0)
    snapshot_days: int | None = Field(default=None, ge=1)
    images: int | None = Field(default=None, ge=0)
    addresses: int | None = Field(default=None, ge=0)
    vm_vcpu: int | None = Field(default=None, ge=0)
    """These three are of one machine."""
    vm_memory_mib: int | None = Field(default=None, ge=0)
    vm_disk_mib: int | None = Field(default=None, ge=0)


class BurstLimits(_Part):
    """Whether its machines may run in clouds; how many at once, and at what price an hour each."""

    allowed: bool = False
    max_vms: int | None = Field(default=None, ge=0)
    max_price_per_hour: str | None = None
    """A decimal number in quotes, in the currency of the site."""


class FirstUser(_Part):
    """The tenant's administrator.

    `password_hash` is made by `vdc tenant hash-password`; without it nobody logs in with a password.
    """

    name: str
    password_hash: str | None = None
    ssh_keys: list[str] = []


class FurtherUser(FirstUser):
    role: Literal["user", "tenant-administrator"] = "user"


class FirstMachine(_Part):
    """Made where there is none of that name; of the file's template."""

    name: str
    context: dict[str, Any] = {}
    """What it is told besides (vdc/context.py)."""


class PrivateNetwork(_Part):
    cidr: str
    gateway: str | None = None
    first_address: str | None = None
    last_address: str | None = None
    dns: list[str] = []


class TenantTemplate(_Part):
    """Named `<tenant>-<name>`; its card is on the private network, its keys are the user's."""

    name: str
    image: str
    vcpu: int = 1
    memory_mib: int
    disk_mib: int | None = None
    start_script: str = ""
    context: dict[str, Any] = {}


class FileGroup(_Part):
    """A security group; each rule in a line, such as `in tcp 80-90 from 10.0.0.0/8`."""

    name: str
    rules: list[str]


class FileForward(_Part):
    """A port of the router's public address that leads to a machine of the file."""

    protocol: Literal["tcp", "udp"] = "tcp"
    port: int = Field(ge=1, le=65535)
    machine: str
    to_port: int | None = Field(default=None, ge=1, le=65535)
    """None: the same."""


class FileRouter(_Part):
    """The gateway of the private network; its forwards are these, and no others."""

    template: str = "router"
    public_address: str | None = None
    """None: the next free one."""
    forwards: list[FileForward] = []


class TenantFile(_Part):
    """A tenant as a file describes it (docs/tenants.md)."""

    tenant: str
    time_zone: str = "UTC"
    quota: Quota = Quota()
    burst: BurstLimits = BurstLimits()
    user: FirstUser
    users: list[FurtherUser] = []
    network: PrivateNetwork
    template: TenantTemplate
    machines: list[FirstMachine] = []
    security_groups: list[FileGroup] = []
    context: dict[str, Any] = {}
    router: FileRouter | None = None
    """None: one that is there stays."""


@dataclass(slots=True)
class Onboarded:
    """What there is now, and what this call changed (empty: nothing)."""

    claim: Claim | None
    tenant: str
    vnet: str
    vlan_id: int | None
    template: str
    changes: list[str] = field(default_factory=list)
    machines: list[str] = field(default_factory=list)
    """Those that are yet to be made."""
    router: CreateRouterRequest | None = None
    """The router that is yet to be made."""
    forwards: list[ForwardPortRequest] = field(default_factory=list)
    """What it is to forward from now on, or no longer: once it is there, and the machines are."""


def parse(text: str, source: str) -> TenantFile:
    """Read a tenant file (YAML). Raises Invalid naming each field that is wrong or unknown."""
    import yaml

    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Invalid(f"{source} is not YAML: {' '.join(str(error).split())}.") from error
    try:
        return _with_contexts(TenantFile.model_validate(values))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg'].lower()}" for e in error.errors()
        )
        raise Invalid(f"{source} is refused: {wrong}.") from error


def _with_contexts(wanted: TenantFile) -> TenantFile:
    """With each context as it is kept. Raises Invalid where one is none."""
    template, name = wanted.template, f"template {wanted.template.name}"
    # Read with the script, which is a text of the same kind.
    read_context({"start_script": template.start_script}, name)
    return wanted.model_copy(
        update={
            "context": read_context(wanted.context, f"tenant {wanted.tenant}"),
            "template": template.model_copy(update={"context": read_context(template.context, name)}),
            "machines": [
                one.model_copy(update={"context": read_context(one.context, f"machine {one.name}")})
                for one in wanted.machines
            ],
        }
    )


def onboard(
    session: Session,
    wanted: TenantFile,
    *,
    uplink: str,
    vlans: str,
    actor: str,
    flow_run_id: str | None = None,
) -> Onboarded:
    """Make the tenant what the file says.

    `vlans` is the site's range `first-last`. Raises Refused; the session must then be rolled back.
    """
    check_name("Tenant", wanted.tenant)
    _check_users([wanted.user, *wanted.users])
    for machine in wanted.machines:
        check_name("Machine", machine.name)
    check_time_zone(wanted.time_zone)
    changes: list[str] = []
    tenant = _tenant(session, wanted, changes)
    _user(session, wanted.user, Role.TENANT_ADMINISTRATOR, tenant, changes)
    for further in wanted.users:
        _user(session, further, Role(further.role), tenant, changes)
    vnet = _vnet(session, wanted, tenant, uplink, vlans, changes)
    template = _template(session, wanted, tenant, vnet, changes)
    groups = [_security_group(session, group, tenant, changes) for group in wanted.security_groups]
    session.flush()
    for group in groups:
        check_peers(session, group)
    missing = _missing(session, wanted, tenant)
    done = Onboarded(None, tenant.name, vnet.name, vnet.vlan_id, template.name, changes, missing)
    if wanted.router:
        done.router = router_to_make(session, wanted.router, vnet, changes)
    changes += [f"machine {name} to be made" for name in missing]
    if wanted.router:
        done.forwards = forwards_to_change(session, wanted, vnet, changes)
    if changes:
        opening = Opening("onboard", "tenant", tenant.id, tenant.name, {"changes": changes})
        done.claim = operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)
        operations.close(session, done.claim)
    return done


def rehearse(
    session: Session, wanted: TenantFile, done: Onboarded, *, prices: ListPrices, actor: str
) -> None:
    """See whether router and first machines can be made, in a session that is rolled back. Raises Refused."""
    if done.router:
        claim_create(session, done.router, actor=actor, prices=prices)
    contexts = {machine.name: machine.context for machine in wanted.machines}
    for name in done.machines:
        asked = DeployRequest(template=done.template, tenant=done.tenant, name=name)
        claim_deploy(session, asked, actor=actor, prices=prices, context=contexts[name])


def _change(row: Any, what: str, values: dict[str, Any], changes: list[str]) -> None:
    for name, new in values.items():
        old = getattr(row, name)
        if old == new:
            continue
        setattr(row, name, new)
        secret = name == "password_hash"
        silent = secret or isinstance(new, (list, dict)) or name == "start_script"
        shown = "changed" if silent else f"{old} -> {new}"
        changes.append(f"{what}: {name} {shown}")


def _tenant(session: Session, wanted: TenantFile, changes: list[str]) -> Tenant:
    limits = {f"max_{name}": getattr(wanted.quota, name) for name, _ in QUOTA_WORDS}
    limits |= {f"vm_max_{name}": getattr(wanted.quota, f"vm_{name}") for name, _ in VM_WORDS}
    limits["max_snapshot_days"] = wanted.quota.snapshot_days
    values = limits | {"time_zone": wanted.time_zone, "context": wanted.context} | _burst(wanted.burst)
    tenant = session.scalars(select(Tenant).where(Tenant.name == wanted.tenant)).first()
    if tenant is None:
        tenant = Tenant(id=new_id(), name=wanted.tenant, **values)
        session.add(tenant)
        session.flush()
        changes.append(f"tenant {wanted.tenant} made")
        return tenant
    if tenant.state != "active":
        raise Conflict(f"Tenant {tenant.name} is {tenant.state}, and its name stays its own: choose another.")
    use = tenant_use(session, tenant.id)
    for name, word in QUOTA_WORDS:
        limit = limits[f"max_{name}"]
        if limit is not None and limit < getattr(use, name):
            raise QuotaExceeded(
                f"Quota of tenant {tenant.name}: {limit} {word} is below the {getattr(use, name)} in use."
            )
    _change(tenant, f"tenant {tenant.name}", values, changes)
    return tenant


def _burst(wanted: BurstLimits) -> dict[str, Any]:
    price = None
    if wanted.max_price_per_hour is not None:
        try:
            price = Decimal(wanted.max_price_per_hour)
        except InvalidOperation as error:
            raise Invalid(
                f"burst.max_price_per_hour {wanted.max_price_per_hour!r} is no decimal number."
            ) from error
        if not price.is_finite() or price <= 0:
            raise Invalid(f"burst.max_price_per_hour {price} is refused: it must be above 0.")
    return {
        "burst_allowed": wanted.allowed,
        "burst_max_vms": wanted.max_vms,
        "burst_max_price": price,
    }


def _check_users(users: list[FirstUser]) -> None:
    names = [user.name for user in users]
    for user in users:
        check_name("User", user.name)
        if user.name in RESERVED:
            raise Invalid(f"User name {user.name!r} is refused: the journal means something else by it.")
        if names.count(user.name) > 1:
            raise Invalid(f"User {user.name} is in the file more than once.")
        for key in user.ssh_keys:
            check_ssh_key(key)
        if user.password_hash:
            check_hash(user.password_hash)


def _missing(session: Session, wanted: TenantFile, tenant: Tenant) -> list[str]:
    keys = {f"{tenant.id}/{machine.name}": machine.name for machine in wanted.machines}
    there = set(session.scalars(select(Vm.live_name).where(Vm.live_name.in_(list(keys)))))
    return [name for key, name in keys.items() if key not in there]


def _user(session: Session, wanted: FirstUser, role: Role, tenant: Tenant, changes: list[str]) -> None:
    values: dict[str, Any] = {
        "role": role.value,
        "ssh_keys": [key.strip() for key in wanted.ssh_keys],
        "password_hash": wanted.password_hash,
    }
    user = session.scalars(select(User).where(User.name == wanted.name)).first()
    if user is None:
        row = User(id=new_id(), name=wanted.name, tenant_id=tenant.id, **values)
        session.add(row)
        changes.append(f"user {row.name} made")
        return
    if user.tenant_id != tenant.id:
        raise Conflict(f"User name {user.name} is taken in another tenant: choose another.")
    _change(user, f"user {user.name}", values, changes)


def _vnet(
    session: Session, wanted: TenantFile, tenant: Tenant, uplink: str, vlans: str, changes: list[str]
) -> Vnet:
    asked = wanted.network
    first, last = pool(asked.cidr, asked.gateway, asked.first_address, asked.last_address)
    values = {
        "cidr": asked.cidr,
        "gateway": asked.gateway,
        "first_address": str(first),
        "last_address": str(last),
        # Machines ask their router, which asks the public network's name servers.
        "dns": list(asked.dns) or ([asked.gateway] if wanted.router and asked.gateway else []),
    }
    name = check_name("Network", f"{tenant.name}-net")
    vnet = session.scalars(select(Vnet).where(Vnet.name == name)).first()
    if vnet is None:
        vlan_id = _free_vlan(session, uplink, vlans)
        vnet = Vnet(id=new_id(), name=name, tenant_id=tenant.id, uri=uplink, vlan_id=vlan_id, **values)
        session.add(vnet)
        session.flush()
        changes.append(f"network {name} made: VLAN {vlan_id}, {asked.cidr}")
        return vnet
    if vnet.tenant_id != tenant.id:
        raise Conflict(f"Network {name} is there already and is not tenant {tenant.name}'s.")
    leases = session.scalar(select(func.count()).where(Nic.vnet_id == vnet.id)) or 0
    if leases and (vnet.cidr, vnet.gateway) != (asked.cidr, asked.gateway):
        raise Conflict(
            f"Network {name} has {leases} leases: its CIDR and gateway can change only while it has none."
        )
    _change(vnet, f"network {name}", values, changes)
    return vnet


def _free_vlan(session: Session, uplink: str, vlans: str) -> int:
    try:
        first, last = (int(part) for part in vlans.split("-"))
    except ValueError as error:
        raise Invalid(f"The setting tenant_vlans {vlans!r} is no range: give first-last.") from error
    if not 1 <= first <= last <= 4094:
        raise Invalid(f"The setting tenant_vlans {vlans!r} is no range within 1 to 4094.")
    taken = {wire(uri, vlan_id) for uri, vlan_id in session.execute(select(Vnet.uri, Vnet.vlan_id))}
    free = next((v for v in range(first, last + 1) if wire(uplink, v) not in taken), None)
    if free is None:
        raise NoCapacity(f"The site's VLAN range {vlans} on {uplink} is exhausted: widen tenant_vlans.")
    return free


def _security_group(session: Session, wanted: FileGroup, tenant: Tenant, changes: list[str]) -> SecurityGroup:
    rules = dumped([parse_line(line) for line in wanted.rules])
    same = select(SecurityGroup).where(
        SecurityGroup.tenant_id == tenant.id, SecurityGroup.name == check_name("Security group", wanted.name)
    )
    group = session.scalars(same).first()
    if group is None:
        group = SecurityGroup(id=new_id(), name=wanted.name, tenant_id=tenant.id, rules=rules)
        session.add(group)
        changes.append(f"security group {wanted.name} made")
        return group
    if group.rules != rules and members_of(session, group.id):
        raise Conflict(
            f"Security group {group.name} has machines in it, and other rules than the file says: change it "
            "with `vdc sg add-rule` and `vdc sg remove-rule`, which tell the machines."
        )
    _change(group, f"security group {group.name}", {"rules": rules}, changes)
    return group


def _template(
    session: Session, wanted: TenantFile, tenant: Tenant, vnet: Vnet, changes: list[str]
) -> Template:
    asked = wanted.template
    image = find(session, Image, "image", asked.image)
    check_usable(session, image, tenant)
    disk_mib = image.virtual_size_mib if asked.disk_mib is None else asked.disk_mib
    check_sizes(asked.vcpu, asked.memory_mib, disk_mib, image)
    values = {
        "image_id": image.id,
        "vcpu": asked.vcpu,
        "memory_mib": asked.memory_mib,
        "disk_mib": disk_mib,
        "vnet_ids": [vnet.id],
        "ssh_keys": [key.strip() for key in wanted.user.ssh_keys],
        "start_script": asked.start_script,
        "context": asked.context,
    }
    name = check_name("Template", f"{tenant.name}-{asked.name}")
    template = session.scalars(select(Template).where(Template.name == name)).first()
    if template is None:
        template = Template(id=new_id(), name=name, tenant_id=tenant.id, **values)
        session.add(template)
        changes.append(f"template {name} made")
        return template
    if template.tenant_id != tenant.id:
        raise Conflict(f"Template {name} is there already and is not tenant {tenant.name}'s.")
    _change(template, f"template {name}", values, changes)
    return template
