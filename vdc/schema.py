"""The tables of the inventory.

Nothing here counts: what a host carries, a tenant uses or a network has left is derived from these rows
inside the transaction that needs it. Two columns hold a *key while live* and NULL afterwards, so that a
unique constraint means "at most one live" on SQLite, PostgreSQL and MariaDB alike: `vms.live_name` and
`operations.open_key`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from vdc.clock import utc_now as utc_now

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}


def new_id() -> str:
    return str(uuid4())


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. SQLite keeps no time zone, so that UTC is put back on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"instant without time zone: {value!r}")
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class ExactDecimal(TypeDecorator[Decimal]):
    """A decimal number, kept as text: SQLite would make a binary fraction of it."""

    impl = String(40)
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | None:
        return None if value is None else format(value, "f")

    def process_result_value(self, value: str | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {
        datetime: UtcDateTime(),
        Decimal: ExactDecimal(),
        dict[str, Any]: JSON(),
        list[Any]: JSON(),
    }


Id = String(36)
Name = String(63)


class Site(Base):
    """One row: who we are. Domains on hosts carry this id, so that two sites can share a host unharmed."""

    __tablename__ = "site"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    created_at: Mapped[datetime]
    traffic_until: Mapped[datetime | None]
    """Up to when samples of network counters were made usage events."""
    context: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What every machine is told (vdc/context.py)."""


class Limits:
    """Columns of whoever has a quota. NULL: no limit."""

    max_vms: Mapped[int | None]
    max_vcpu: Mapped[int | None]
    max_running_vcpu: Mapped[int | None]
    max_memory_mib: Mapped[int | None]
    max_disk_mib: Mapped[int | None]
    max_snapshots: Mapped[int | None]
    max_snapshot_days: Mapped[int | None]
    """How old a snapshot may become."""
    max_images: Mapped[int | None]
    max_addresses: Mapped[int | None]
    """Of the site's networks; those of the tenant's own are not counted."""
    vm_max_vcpu: Mapped[int | None]
    """These three are of one machine."""
    vm_max_memory_mib: Mapped[int | None]
    vm_max_disk_mib: Mapped[int | None]


class Tenant(Limits, Base):
    """A customer."""

    __tablename__ = "tenants"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    time_zone: Mapped[str] = mapped_column(String(60), default="UTC")
    """IANA name: in which a month begins and ends for this tenant's bill."""
    state: Mapped[str] = mapped_column(String(20), default="active")
    """`active`; `leaving`: it gets nothing new, and is being removed; `gone`: its bills are kept."""
    ended_at: Mapped[datetime | None]
    burst_allowed: Mapped[bool] = mapped_column(default=False)
    """Whether its machines may run in a cloud when our hosts are full; the limits below are of those."""
    burst_max_vms: Mapped[int | None]
    burst_max_price: Mapped[Decimal | None]
    """What one such machine may cost an hour at most, in the cloud's currency."""
    legal_name: Mapped[str] = mapped_column(String(200), default="")
    postal_address: Mapped[str] = mapped_column(String(500), default="")
    tax_id: Mapped[str] = mapped_column(String(40), default="")
    tax_name: Mapped[str] = mapped_column(String(40), default="")
    """Such as VAT; with the percentage, what its bills add to their total."""
    tax_percent: Mapped[Decimal | None]
    monthly_budget: Mapped[Decimal | None]
    """What it means to spend a month, without tax: alerts tell when parts of it are used up."""
    context: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What its machines are told (vdc/context.py)."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class User(Limits, Base):
    """An account. The password is kept as an argon2id hash; without one nobody logs in by password."""

    __tablename__ = "users"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    role: Mapped[str] = mapped_column(String(30))
    """One of `vdc.access.Role`."""
    state: Mapped[str] = mapped_column(String(20), default="enabled")
    """`enabled`, or `disabled`: neither password nor token is good for anything."""
    password_hash: Mapped[str | None] = mapped_column(String(200))
    ssh_keys: Mapped[list[Any]]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Token(Base):
    """What a user shows instead of the password, until it expires. Only its SHA-256 is kept."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class LoginFailure(Base):
    """Logins that failed in a row, of users and of names that there are not alike: nobody is told which."""

    __tablename__ = "login_failures"
    name: Mapped[str] = mapped_column(Name, primary_key=True)
    count: Mapped[int]
    at: Mapped[datetime]
    """Of the last one."""


class Secret(Base):
    """What a context names and nobody is shown (vdc/secrets.py). Of the site, or of a tenant."""

    __tablename__ = "secrets"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(Name)
    sealed: Mapped[str] = mapped_column(Text)
    """Encrypted with a key that is not in the inventory."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Share(Base):
    """A user, or everybody of a tenant, may use an object that is another's: see vdc/access.py."""

    __tablename__ = "shares"
    __table_args__ = (UniqueConstraint("object_id", "user_id"), UniqueConstraint("object_id", "tenant_id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    object_kind: Mapped[str] = mapped_column(String(20))
    object_id: Mapped[str] = mapped_column(Id)
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    """The one with whom it is shared; NULL where that is a user."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Refusal(Base):
    """What somebody asked for and was refused: nothing was touched, and no operation opened."""

    __tablename__ = "refusals"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    at: Mapped[datetime] = mapped_column(default=utc_now, index=True)
    requested_by: Mapped[str] = mapped_column(String(127))
    user_id: Mapped[str | None] = mapped_column(Id)
    tenant_id: Mapped[str | None] = mapped_column(Id)
    """Of the one who asked."""
    asked: Mapped[str] = mapped_column(String(60))
    """The command without its noun's objects, or the flow: `vm terminate`, `deploy`."""
    object: Mapped[str] = mapped_column(String(255))
    kind: Mapped[str] = mapped_column(String(40))
    """Name of the error: `Forbidden`, `QuotaExceeded`, ..."""
    error: Mapped[str] = mapped_column(Text)
    flow_run_id: Mapped[str | None] = mapped_column(Id)


class Host(Base):
    """A hypervisor host. `state`: `enabled`, or `disabled`: it takes no new machines."""

    __tablename__ = "hosts"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    uri: Mapped[str] = mapped_column(String(500), unique=True)
    migration_address: Mapped[str] = mapped_column(String(255), default="")
    state: Mapped[str] = mapped_column(String(20))
    domain_type: Mapped[str] = mapped_column(String(20))
    arch: Mapped[str] = mapped_column(String(20))
    host_uuid: Mapped[str] = mapped_column(String(36), default="")
    vcpu: Mapped[int]
    memory_mib: Mapped[int]
    reserved_memory_mib: Mapped[int] = mapped_column(default=0)
    cpu_overcommit: Mapped[float] = mapped_column(Float, default=1.0)
    memory_overcommit: Mapped[float] = mapped_column(Float, default=1.0)
    networks: Mapped[list[Any]]
    """URIs of the uplinks that were found at enrolment."""
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    hypervisor_version: Mapped[str] = mapped_column(String(60), default="")
    load_1m: Mapped[float] = mapped_column(Float, default=0.0)
    observed_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Datastore(Base):
    __tablename__ = "datastores"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    uri: Mapped[str] = mapped_column(String(500), unique=True)
    disk_format: Mapped[str] = mapped_column(String(10))
    shared: Mapped[bool] = mapped_column(default=True)
    """The same files on every host; else each host has a part of its own."""
    overcommit: Mapped[float | None] = mapped_column(Float)
    """How many times its size may be promised to machines; NULL: without limit."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class HostDatastore(Base):
    """This host mounts that datastore, readable and writable: proved at enrolment.

    Size and free space are what the host saw last; of a shared datastore every host has the same.
    """

    __tablename__ = "host_datastores"
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"), primary_key=True)
    datastore_id: Mapped[str] = mapped_column(ForeignKey("datastores.id"), primary_key=True)
    capacity_mib: Mapped[int | None]
    free_mib: Mapped[int | None]
    observed_at: Mapped[datetime | None]


class Image(Base):
    """`state`: `importing`, `saving` (made of a disk or of another image), `ready`, `changing` (becoming
    persistent, or no longer) or `deleting`.

    One that is `deleting` or `changing` and has no operation open was not finished: reconcile goes on.
    """

    __tablename__ = "images"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    """Whose it is; NULL: the site's."""
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    """The user who made it; NULL: nobody of ours."""
    published: Mapped[bool] = mapped_column(default=True)
    """Every tenant may use it; else its own alone."""
    datastore_id: Mapped[str] = mapped_column(ForeignKey("datastores.id"))
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    """By which it came into the datastore: where its bytes are, if each host has that for itself."""
    state: Mapped[str] = mapped_column(String(20))
    file: Mapped[str] = mapped_column(String(255))
    format: Mapped[str] = mapped_column(String(10))
    virtual_size_mib: Mapped[int]
    size_mib: Mapped[int]
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the file that was given to the import; of one that was saved here, of what is stored."""
    iso: Mapped[bool] = mapped_column(default=False)
    """An ISO 9660 image, stored as it is: it may be put into a drive."""
    persistent: Mapped[bool] = mapped_column(default=False)
    """It is one machine's disk, which keeps what is written to it (vdc/claims/persistence.py)."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Cloud(Base):
    """A provider's region where machines may run when our hosts are full."""

    __tablename__ = "clouds"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    uri: Mapped[str] = mapped_column(String(500), unique=True)
    currency: Mapped[str] = mapped_column(String(3))
    prices_as_of: Mapped[str] = mapped_column(String(10))
    """The day of the oldest price, `2026-11-01`."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CloudPrice(Base):
    """What an instance type costs in a zone, from the operator's list. One without a price is not used."""

    __tablename__ = "cloud_prices"
    cloud_id: Mapped[str] = mapped_column(ForeignKey("clouds.id"), primary_key=True)
    instance_type: Mapped[str] = mapped_column(String(40), primary_key=True)
    zone: Mapped[str] = mapped_column(String(40), primary_key=True)
    vcpu: Mapped[int]
    memory_mib: Mapped[int]
    price_per_hour: Mapped[Decimal]


class CloudImage(Base):
    """What an image of ours is called in a cloud: the same content, brought there by the operator."""

    __tablename__ = "cloud_images"
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), primary_key=True)
    cloud_id: Mapped[str] = mapped_column(ForeignKey("clouds.id"), primary_key=True)
    ami: Mapped[str] = mapped_column(String(40))


class Vnet(Base):
    """A virtual network: one layer-2 segment, one IPv4 pool. One with a tenant is that tenant's alone."""

    __tablename__ = "vnets"
    __table_args__ = (UniqueConstraint("uri", "vlan_id"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    uri: Mapped[str] = mapped_column(String(255))
    vlan_id: Mapped[int | None]
    cidr: Mapped[str] = mapped_column(String(43))
    gateway: Mapped[str | None] = mapped_column(String(39))
    first_address: Mapped[str] = mapped_column(String(39))
    last_address: Mapped[str] = mapped_column(String(39))
    dns: Mapped[list[Any]]
    public: Mapped[bool] = mapped_column(default=False)
    """The site's way out: its gateway leads elsewhere, and routers have a card on it."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Template(Base):
    """What a machine is made of. One with a tenant is that tenant's alone."""

    __tablename__ = "templates"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"))
    vcpu: Mapped[int]
    memory_mib: Mapped[int]
    disk_mib: Mapped[int]
    vnet_ids: Mapped[list[Any]]
    ssh_keys: Mapped[list[Any]]
    start_script: Mapped[str] = mapped_column(Text, default="")
    context: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """What else its machines are told (vdc/context.py)."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PlacementGroup(Base):
    """Machines that must share a host (`affinity`) or must not (`anti-affinity`), whoever owns them."""

    __tablename__ = "placement_groups"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, unique=True)
    policy: Mapped[str] = mapped_column(String(20))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class Vm(Base):
    __tablename__ = "vms"
    __table_args__ = (Index(None, "host_id", "state"), Index(None, "tenant_id", "state"))
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name, index=True)
    live_name: Mapped[str | None] = mapped_column(String(127), unique=True)
    """`<tenant id>/<name>` while the machine holds its place, then NULL."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"), index=True)
    """The user who asked for it; NULL: nobody of ours."""
    template_id: Mapped[str | None] = mapped_column(ForeignKey("templates.id"))
    """NULL for a machine that has ended and whose template was deleted since."""
    host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"))
    """NULL for a machine in a cloud."""
    cloud_id: Mapped[str | None] = mapped_column(ForeignKey("clouds.id"))
    instance_id: Mapped[str | None] = mapped_column(String(40))
    instance_type: Mapped[str | None] = mapped_column(String(40))
    zone: Mapped[str | None] = mapped_column(String(40))
    hourly_price: Mapped[Decimal | None]
    """What the provider asks for an hour; like the type, first of the offer that will be tried first."""
    cloud_address: Mapped[str | None] = mapped_column(String(39))
    target_host_id: Mapped[str | None] = mapped_column(ForeignKey("hosts.id"), index=True)
    """Where it is migrating to: until that is over it holds its place on both hosts."""
    group_id: Mapped[str | None] = mapped_column(ForeignKey("placement_groups.id"))
    desired: Mapped[str] = mapped_column(String(20))
    state: Mapped[str] = mapped_column(String(20))
    protected: Mapped[bool] = mapped_column(default=False)
    """It cannot be terminated until that is taken back."""
    hold_until: Mapped[datetime | None]
    """When a machine on hold is released; NULL: when somebody says so."""
    observed: Mapped[str | None] = mapped_column(String(20))
    observed_at: Mapped[datetime | None]
    vcpu: Mapped[int]
    memory_mib: Mapped[int]
    next_vcpu: Mapped[int | None]
    next_memory_mib: Mapped[int | None]
    """What it is to have, where that is not what it has: until then it holds its place with the larger."""
    resizing: Mapped[bool] = mapped_column(default=False)
    """Its size is being changed. Without an open operation: its host was away; reconcile goes on."""
    spec: Mapped[dict[str, Any]]
    """The complete `vdc.model.VmSpec`: all that is needed to make it again, or to remove it."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Disk(Base):
    __tablename__ = "disks"
    __table_args__ = (UniqueConstraint("vm_id", "index"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"))
    index: Mapped[int]
    datastore_id: Mapped[str | None] = mapped_column(ForeignKey("datastores.id"), index=True)
    """NULL for the disk of a machine in a cloud, which is the provider's and counts in the quota alone."""
    image_id: Mapped[str | None] = mapped_column(ForeignKey("images.id"), index=True)
    file: Mapped[str] = mapped_column(String(255))
    format: Mapped[str] = mapped_column(String(10))
    size_mib: Mapped[int]
    volume_id: Mapped[str | None] = mapped_column(ForeignKey("volumes.id"), unique=True)
    """Of a disk that was attached, and can be detached."""
    ready: Mapped[bool] = mapped_column(default=True)
    """False: on its way in or out. Without an open operation: reconcile takes it out."""


class Volume(Base):
    """A disk of its own: attached to a machine (then it has a row in `disks` too), or kept for later.

    `state`: `attached`, `kept`, `removing`, or `gone` (the row stays for the bill). One that is `removing`
    and has no operation open could not be removed yet: reconcile goes on.
    """

    __tablename__ = "volumes"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name)
    live_name: Mapped[str | None] = mapped_column(String(127), unique=True)
    """`<tenant id>/<name>` until it is gone, then NULL."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    datastore_id: Mapped[str] = mapped_column(ForeignKey("datastores.id"), index=True)
    host_id: Mapped[str] = mapped_column(ForeignKey("hosts.id"))
    """Where it was attached last: where its bytes are, if each host has that datastore for itself."""
    state: Mapped[str] = mapped_column(String(20))
    keep: Mapped[bool] = mapped_column(default=False)
    """While it is on its way in or out: it is kept when it is out."""
    file: Mapped[str] = mapped_column(String(255))
    format: Mapped[str] = mapped_column(String(10))
    size_mib: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]


class Cdrom(Base):
    """An ISO image in a machine's drive; `ready` as in `disks`."""

    __tablename__ = "cdroms"
    __table_args__ = (UniqueConstraint("vm_id", "index"), UniqueConstraint("vm_id", "image_id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"))
    index: Mapped[int]
    image_id: Mapped[str] = mapped_column(ForeignKey("images.id"), index=True)
    ready: Mapped[bool] = mapped_column(default=True)


class Snapshot(Base):
    """A state that a machine can be taken back to. The row comes with the claim: `ready` says it was made."""

    __tablename__ = "snapshots"
    __table_args__ = (UniqueConstraint("vm_id", "label"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    """Also its name on the host."""
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"))
    label: Mapped[str] = mapped_column(Name)
    kind: Mapped[str] = mapped_column(String(20))
    """`memory` (disk and memory) or `disk`."""
    ready: Mapped[bool] = mapped_column(default=False)
    size_mib: Mapped[int | None]
    """What it took in the datastore when it was made, where the driver can tell."""
    parent_id: Mapped[str | None] = mapped_column(Id)
    """The snapshot that was current when this one was made."""
    current: Mapped[bool] = mapped_column(default=False)
    """The machine goes on from this one: it was made, or taken back to, last."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    expires_at: Mapped[datetime | None]
    """When its own time is over; NULL: only limits say how old it may become (claims/snapshot_age.py)."""


class Nic(Base):
    """A network card and the lease of its address: one row, so that one cannot be without the other."""

    __tablename__ = "nics"
    __table_args__ = (
        UniqueConstraint("vnet_id", "address"),
        UniqueConstraint("vnet_id", "mac"),
        UniqueConstraint("vm_id", "index"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"))
    vnet_id: Mapped[str] = mapped_column(ForeignKey("vnets.id"))
    index: Mapped[int]
    address: Mapped[str] = mapped_column(String(39))
    mac: Mapped[str] = mapped_column(String(17))
    device: Mapped[str] = mapped_column(String(15))
    ready: Mapped[bool] = mapped_column(default=True)
    """As in `disks`."""


class SecurityGroup(Base):
    """Rules for the machines that are in it: what they may be connected from, and to."""

    __tablename__ = "security_groups"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(Name)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    rules: Mapped[list[Any]]
    """Each a `vdc.model.Rule`."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class SecurityGroupMember(Base):
    """A machine in a security group."""

    __tablename__ = "security_group_members"
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), primary_key=True)
    group_id: Mapped[str] = mapped_column(ForeignKey("security_groups.id"), primary_key=True, index=True)


class Router(Base):
    """The machine that is a network's gateway. The row goes with the machine."""

    __tablename__ = "routers"
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    vnet_id: Mapped[str] = mapped_column(ForeignKey("vnets.id"), unique=True)
    """The network that it serves."""
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), unique=True)
    told: Mapped[str] = mapped_column(String(16), default="")
    """Digest of what it was told last (drivers/router.py), as far as is known."""
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class PortForward(Base):
    """What comes to a port of a router's public address goes to a machine. The row goes with either."""

    __tablename__ = "port_forwards"
    __table_args__ = (UniqueConstraint("router_id", "protocol", "port"),)
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    router_id: Mapped[str] = mapped_column(ForeignKey("routers.id"))
    protocol: Mapped[str] = mapped_column(String(3))
    """`tcp` or `udp`."""
    port: Mapped[int]
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), index=True)
    to_port: Mapped[int]


class Operation(Base):
    """Lock, journal and audit in one. See vdc/operations.py for the rules."""

    __tablename__ = "operations"
    __table_args__ = (Index(None, "owner", "finished_at"), Index(None, "started_at"))
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("operations.id"), index=True)
    kind: Mapped[str] = mapped_column(String(40))
    object: Mapped[str] = mapped_column(String(127))
    """`<kind>/<name>` as a person says it: `vm/web-1`."""
    object_id: Mapped[str] = mapped_column(Id, index=True)
    open_key: Mapped[str | None] = mapped_column(String(60), unique=True)
    """`<object kind>:<object id>` while open, then NULL: one open operation per object."""
    requested_by: Mapped[str] = mapped_column(String(127))
    user_id: Mapped[str | None] = mapped_column(Id, index=True)
    """Who asked, where that is a user; see vdc/access.py."""
    tenant_id: Mapped[str | None] = mapped_column(Id, index=True)
    """Whose the object is."""
    flow_run_id: Mapped[str | None] = mapped_column(Id, index=True)
    spec: Mapped[dict[str, Any]]
    owner: Mapped[str] = mapped_column(String(127))
    epoch: Mapped[int] = mapped_column(Integer, default=1)
    attempts: Mapped[int] = mapped_column(Integer, default=1)
    heartbeat_at: Mapped[datetime]
    started_at: Mapped[datetime] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(index=True)
    outcome: Mapped[str | None] = mapped_column(String(20))
    """`done` or `failed`; NULL while open."""
    error: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    """What there is to tell of it when it is over: of a migration, the hosts, `total_s` and `downtime_s`."""


class LaunchAttempt(Base):
    """One call that may start an instance. Committed before the call: whoever comes after a crash asks with
    the same token, and gets the same instance."""

    __tablename__ = "launch_attempts"
    token: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id"))
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), index=True)
    instance_type: Mapped[str] = mapped_column(String(40))
    zone: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    instance_id: Mapped[str | None] = mapped_column(String(40))
    outcome: Mapped[str | None] = mapped_column(Text)
    """`launched`, or why not; NULL while it is not known what came of it."""


class UsageEvent(Base):
    """What happened to a machine, a volume or a tenant's image that a bill must know. Append-only; a retry
    cannot bill twice. A disk is charged with the machine that has it, else as a volume. NULL: the event does
    not tell it."""

    __tablename__ = "usage_events"
    __table_args__ = (
        UniqueConstraint("operation_id", "vm_id", "kind"),
        UniqueConstraint("operation_id", "volume_id", "kind"),
        UniqueConstraint("operation_id", "image_id", "kind"),
        Index(None, "tenant_id", "at"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True, default=new_id)
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id"))
    vm_id: Mapped[str | None] = mapped_column(ForeignKey("vms.id"), index=True)
    volume_id: Mapped[str | None] = mapped_column(ForeignKey("volumes.id"), index=True)
    image_id: Mapped[str | None] = mapped_column(Id, index=True)
    """Of an image's event, which outlives the image."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    kind: Mapped[str] = mapped_column(String(30))
    at: Mapped[datetime]
    """When it was observed to happen, not when the row was written."""
    vcpu: Mapped[int]
    memory_mib: Mapped[int]
    disk_mib: Mapped[int]
    host: Mapped[str] = mapped_column(String(63))
    provider: Mapped[str] = mapped_column(String(20), default="local")
    """Whose hypervisor: `local`, or `ec2`."""
    hourly_price: Mapped[Decimal | None]
    """What the provider asks for an hour of this machine, in the tariff's currency; NULL on hosts of ours."""
    snapshot_mib: Mapped[int | None]
    """What its snapshots take in all."""
    addresses: Mapped[int | None]
    """Public ones."""
    image: Mapped[str | None] = mapped_column(Name)
    """From which it was made; of an image's event, its own name."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of traffic: what it sent."""


class TariffVersion(Base):
    """What is charged from a day on. Written once; nothing in the program changes a row."""

    __tablename__ = "tariffs"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant_id: Mapped[str | None] = mapped_column(ForeignKey("tenants.id"))
    """NULL: everyone's who has none of their own."""
    valid_from: Mapped[str | None] = mapped_column(String(10))
    """`2026-10-15`: that midnight in the tenant's time zone; NULL: always."""
    valid_until: Mapped[str | None] = mapped_column(String(10))
    prices: Mapped[dict[str, Any]]
    """As of vdc.tariff_file.kept."""
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(127))


class Bill(Base):
    """A closed month of a tenant, as it was sent. Written once; nothing in the program changes a row."""

    __tablename__ = "bills"
    __table_args__ = (UniqueConstraint("tenant_id", "month"),)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """1, 2, 3, ... without a gap, over all tenants of the site."""
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    month: Mapped[str] = mapped_column(String(7))
    """`2026-10`, in the tenant's time zone."""
    total: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3))
    document: Mapped[str] = mapped_column(Text)
    """The bill as canonical JSON (vdc/documents.py), to the byte."""
    sha256: Mapped[str] = mapped_column(String(64))
    """Of `document` in UTF-8."""
    issued_at: Mapped[datetime]
    issued_by: Mapped[str] = mapped_column(String(127))
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id"))


class CreditNote(Base):
    """What was given back of a bill, as it was sent. Written once, like a bill."""

    __tablename__ = "credit_notes"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """1, 2, 3, ... without a gap: a series of its own."""
    bill_number: Mapped[int] = mapped_column(ForeignKey("bills.number"), index=True)
    total: Mapped[Decimal]
    """What is given back: above 0."""
    currency: Mapped[str] = mapped_column(String(3))
    reason: Mapped[str] = mapped_column(String(500))
    document: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
    issued_at: Mapped[datetime]
    issued_by: Mapped[str] = mapped_column(String(127))
    operation_id: Mapped[str] = mapped_column(ForeignKey("operations.id"))


class BudgetAlert(Base):
    """A tenant's cost of a month has reached so much of its budget. Written once; told once."""

    __tablename__ = "budget_alerts"
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    month: Mapped[str] = mapped_column(String(7), primary_key=True)
    percent: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event_id: Mapped[str] = mapped_column(Id, default=new_id)
    """Of the Prefect event: told again after a crash, it is the same event."""
    cost: Mapped[Decimal]
    budget: Mapped[Decimal]
    currency: Mapped[str] = mapped_column(String(3))
    crossed_at: Mapped[datetime]
    told_at: Mapped[datetime | None]


class Sample(Base):
    """Counters of a running machine, as its host gave them. They begin at zero with each start."""

    __tablename__ = "samples"
    __table_args__ = (Index(None, "at"),)
    vm_id: Mapped[str] = mapped_column(ForeignKey("vms.id"), primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    cpu_s: Mapped[float]
    disk_read_bytes: Mapped[int] = mapped_column(BigInteger)
    disk_write_bytes: Mapped[int] = mapped_column(BigInteger)
    net_rx_bytes: Mapped[int] = mapped_column(BigInteger)
    net_tx_bytes: Mapped[int] = mapped_column(BigInteger)
