"""The values that cross boundaries: frozen, without a session, a connection or a secret.

Sizes are MiB (`*_mib`) unless a name says otherwise. An object's place on a host is derived from its
id alone, so that what belongs to a machine can be found, or removed, without memory of what was done.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from decimal import Decimal
from urllib.parse import urlsplit, urlunsplit


def domain_name(vm_id: str) -> str:
    """Name of a machine's libvirt domain."""
    return f"vm-{vm_id}"


def disk_file(vm_id: str, index: int, extension: str) -> str:
    """File name of a machine's disk in its datastore; `extension` is `qcow2` or `raw`."""
    return f"vm-{vm_id}-disk{index}.{extension}"


def disk_prefix(vm_id: str) -> str:
    """How the file names of all disks of a machine begin."""
    return f"vm-{vm_id}-disk"


def seed_file(vm_id: str) -> str:
    """File name of a machine's cloud-init seed (an ISO 9660 image) in its datastore."""
    return f"vm-{vm_id}-seed.iso"


def image_file(image_id: str, extension: str) -> str:
    """File name of an image in its datastore."""
    return f"image-{image_id}.{extension}"


def persistent_file(image_id: str, extension: str) -> str:
    """File name of an image that a machine writes to."""
    return f"image-{image_id}-persistent.{extension}"


def volume_file(volume_id: str, extension: str) -> str:
    """File name of a disk that was attached to a machine, and may outlive it."""
    return f"volume-{volume_id}.{extension}"


def nic_device(vm_id: str, index: int) -> str:
    """Name of the host's end of a network card.

    At most 15 characters (IFNAMSIZ), and not beginning with `vnet`, which libvirt takes for itself.
    """
    return f"vd{vm_id.replace('-', '')[:10]}-{index}"


ROOT = "root"
"""What a machine's first disk is called: it cannot be detached."""

MOST_DISKS, MOST_NICS, MOST_CDROMS = 12, 8, 4
"""Of one machine. Its one PCI bus has 31 slots for disks, cards and what else is in it."""

MOST_VCPU = 255
"""Of a machine of type `pc`, by libvirt."""


def vcpu_room(vcpu: int) -> int:
    """How many vCPUs a machine that is started with `vcpu` may have while it runs: twice as many, at least 4.

    Each one that is not plugged in costs its guest some 100 KiB of memory, and its host nothing.
    """
    return max(vcpu, min(MOST_VCPU, max(4, 2 * vcpu)))


@dataclass(frozen=True, slots=True)
class HostRef:
    """A hypervisor host as drivers need it. `uri` is a libvirt URI, or `simulated://...`."""

    name: str
    uri: str
    domain_type: str = "kvm"
    """libvirt's domain type: `kvm`, or `qemu` for emulation."""
    arch: str = "x86_64"
    migration_address: str = ""
    """Where other hosts reach this one; empty: the same as in `uri`."""

    @property
    def peer_address(self) -> str:
        """The name or address at which other hosts reach this one; a simulated one has its name."""
        given = self.migration_address
        named = urlsplit(given).hostname if "://" in given else given
        return named or urlsplit(self.uri).hostname or self.name


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image in a datastore. `format` is `qcow2` or `raw`: that of the stored file."""

    image_id: str
    file: str
    format: str
    virtual_size_mib: int
    sha256: str = ""
    """Of the imported source file, hex."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of a machine: `file` in the datastore at `datastore_uri`, made from `image` (or blank)."""

    index: int
    datastore_uri: str
    file: str
    format: str
    size_mib: int
    image: ImageSpec | None = None
    name: str = ROOT
    persistent: bool = False
    """The file is a persistent image's: it is there before the machine, and stays when that goes."""


@dataclass(frozen=True, slots=True)
class CdromSpec:
    """An ISO image in a machine's drive: its guest can only read it. `name`: that of the image."""

    index: int
    datastore_uri: str
    file: str
    format: str
    name: str


@dataclass(frozen=True, slots=True)
class FileSource:
    """A disk or an image, of which an image is made in the same datastore."""

    file: str
    format: str
    size_mib: int
    """As a guest sees it."""
    snapshot_id: str = ""
    """The state of it that is wanted: it may be in use then. Empty: as it is, and nobody may write to it."""
    whole: bool = False
    """It needs no other file: it can be copied as it is."""


@dataclass(frozen=True, slots=True)
class ImageSeen:
    """An image as it is stored."""

    size_bytes: int
    sha256: str
    """Hex."""


QINQ = "qinq"
"""Option of a network's URI: guests may send VLAN tags of their own, and the network's goes around them."""


def segment(uri: str) -> str:
    """What VLAN ids are counted on: the uplink that `uri` names, however its ports are."""
    parts = urlsplit(uri)
    options = [part for part in parts.query.split("&") if part.partition("=")[0] != QINQ]
    return urlunsplit(parts._replace(query="&".join(options)))


@dataclass(frozen=True, slots=True)
class VnetSpec:
    """A virtual network. `uri` names driver and uplink: `vlan://ovsbr0`, `bridge://br0`."""

    vnet_id: str
    name: str
    uri: str
    vlan_id: int | None
    cidr: str
    gateway: str | None = None
    dns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """Connections that a security group lets through, by who begins them: `in` others, `out` the machine."""

    direction: str
    protocol: str
    """`tcp`, `udp`, `icmp`, or `any`."""
    first_port: int = 0
    last_port: int = 0
    """Of the side that is connected to; 0: all."""
    cidr: str = "0.0.0.0/0"
    """Where the other side is."""
    peer: str = ""
    """Name of a group of the same tenant whose machines are the other side; empty in a card's rules, which
    have their addresses instead."""


@dataclass(frozen=True, slots=True)
class NicSpec:
    """One network card: `device` is the host's end, `address` without prefix length."""

    index: int
    vnet: VnetSpec
    device: str
    mac: str
    address: str
    rules: tuple[Rule, ...] | None = None
    """What its machine's security groups let through; None: it has none, and nothing is held back."""
    routes: bool = False
    """It is a router's, in the network that it serves: it also sends what comes from elsewhere."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A machine that a router knows: what DHCP gives to its card, and what its name resolves to."""

    name: str
    mac: str
    address: str


@dataclass(frozen=True, slots=True)
class Forward:
    """What comes to `port` of a router's public address goes to `to_port` of a machine of its network."""

    protocol: str
    """`tcp` or `udp`."""
    port: int
    address: str
    to_port: int


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """What a router does for its network. Its first card is on the public network, its second on that one."""

    cidr: str
    address: str
    """Its own in that network: the gateway."""
    public_address: str
    domain: str
    """Under which the machines' names resolve, beside the names alone."""
    resolvers: tuple[str, ...]
    """Name servers that it asks."""
    time_servers: tuple[str, ...]
    leases: tuple[Lease, ...]
    forwards: tuple[Forward, ...]

    @property
    def digest(self) -> str:
        """Of all of it: 16 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class GuestUser:
    """A login that the guest makes. `password_hash`: as in /etc/shadow; empty: none by password."""

    name: str
    ssh_keys: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sudo: bool = False
    shell: str = "/bin/bash"
    password_hash: str = ""


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file that the guest writes at its first start. `permissions`: octal, `owner`: `user:group`."""

    path: str
    content: str
    permissions: str = "0644"
    owner: str = "root:root"


@dataclass(frozen=True, slots=True)
class ContextSpec:
    """What a machine is told about itself through its cloud-init seed.

    Where a secret belongs there is a mark of it (vdc/secrets.py): what it is comes in when the seed is built.
    """

    hostname: str
    ssh_keys: tuple[str, ...] = ()
    start_script: str = ""
    users: tuple[GuestUser, ...] = ()
    packages: tuple[str, ...] = ()
    files: tuple[GuestFile, ...] = ()
    cloud_init: str = ""
    """Further fields of cloud-init's user-data, as a JSON object; empty: none."""
    router: RouterSpec | None = None
    """Of a machine that is a router."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An instance type in a zone, and what an hour of it costs in the cloud's currency."""

    instance_type: str
    zone: str
    price_per_hour: Decimal


@dataclass(frozen=True, slots=True)
class CloudPlace:
    """Where a machine runs that our hosts could not take. `offers` are tried in this order."""

    name: str
    uri: str
    ami: str
    offers: tuple[Offer, ...]


@dataclass(frozen=True, slots=True)
class LaunchSpec:
    """One attempt to start an instance. The same token with the same values never starts a second one."""

    token: str
    ami: str
    instance_type: str
    zone: str
    vm_id: str
    vm_name: str
    tenant: str
    site: str
    user_data: str = ""


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """An instance as its cloud describes it; `vm_id`, `site` and `token` are the tags of ours."""

    instance_id: str
    state: str
    """`pending`, `running`, `stopped`, or `gone`; what is on the way to a state counts as in it."""
    instance_type: str
    zone: str
    address: str = ""
    """Public if it has such a one, else private; empty while there is none."""
    vm_id: str = ""
    site: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class VmSpec:
    """All that is needed to make one machine on one host, or to remove it."""

    vm_id: str
    name: str
    tenant: str
    site: str
    host: HostRef
    vcpu: int
    memory_mib: int
    disks: tuple[DiskSpec, ...]
    nics: tuple[NicSpec, ...]
    context: ContextSpec
    seed_datastore_uri: str
    seed_file: str
    start: str = "running"
    """State after deployment: `running`, `paused` or `stopped`."""
    cloud: CloudPlace | None = None
    """Set for a machine in a cloud: it has no disk or card of ours, and its host is called NAME/ZONE."""
    cdroms: tuple[CdromSpec, ...] = ()

    @property
    def domain(self) -> str:
        return domain_name(self.vm_id)


@dataclass(frozen=True, slots=True)
class Attachment:
    """How a network driver wants a card in the domain's description: on a port that it has made."""

    device: str
    mac: str
    offloads: bool = True
    """False: segmentation and checksum offloads off (a user-space switch does not carry them)."""


@dataclass(frozen=True, slots=True)
class DiskAttachment:
    """A disk as the domain's description names it: an absolute path on the host."""

    path: str
    format: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class CdromAttachment:
    """An image in a drive that can be plugged in."""

    path: str
    format: str
    index: int


Device = DiskSpec | CdromSpec | NicSpec
"""What may be attached to a machine and detached from it."""

DeviceAttachment = DiskAttachment | CdromAttachment | Attachment
"""The same as the domain's description has it."""


@dataclass(frozen=True, slots=True)
class DomainSpec:
    """A libvirt domain, independent of XML."""

    name: str
    vm_id: str
    vm_name: str
    tenant: str
    site: str
    domain_type: str
    arch: str
    vcpu: int
    memory_mib: int
    disks: tuple[DiskAttachment, ...]
    seed_path: str | None
    nics: tuple[Attachment, ...]
    max_vcpu: int = 0
    """How many vCPUs it may have while it runs; 0: no more than it is started with."""
    cdroms: tuple[CdromAttachment, ...] = ()


@dataclass(frozen=True, slots=True)
class Size:
    """What of a machine can be changed, and is charged. The disk is its first one."""

    vcpu: int
    memory_mib: int
    disk_mib: int


@dataclass(frozen=True, slots=True)
class ShapeSeen:
    """What a domain has, and how far that may be changed while it runs; of one that is off: its description.

    `min_vcpu`: those it was started with, which cannot be unplugged. `disks_mib`: as its guest sees them.
    """

    running: bool
    vcpu: int
    min_vcpu: int
    max_vcpu: int
    memory_mib: int
    max_memory_mib: int
    disks_mib: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class DevicesSeen:
    """What is plugged into a domain: paths of disks and of images in drives, MACs of cards.

    Of one that is off: what it would be started with.
    """

    files: frozenset[str]
    macs: frozenset[str]


@dataclass(frozen=True, slots=True)
class DomainSeen:
    """A domain as observed on a host. `vm_id` and `site` come from its metadata: empty if not ours."""

    name: str
    state: str
    """`running`, `paused`, `stopped`, `suspended`, `crashed`, or `other`."""
    vm_id: str = ""
    site: str = ""
    stalled: bool = False
    """Paused by the hypervisor, as there is no room for what it writes; resumed, it tries again."""


@dataclass(frozen=True, slots=True)
class DomainCounters:
    """What a domain did since it was started; a new start, also on another host, begins at zero.

    Network cards go on counting where they are started again on the same host: their ports have stayed.
    Disks and network cards are summed up. `vm_id` and `site` are empty if it is not ours.
    """

    name: str
    vm_id: str
    site: str
    cpu_s: float
    disk_read_bytes: int
    disk_write_bytes: int
    net_rx_bytes: int
    """What the guest received."""
    net_tx_bytes: int


@dataclass(frozen=True, slots=True)
class VncEndpoint:
    """Where a machine's screen listens, as seen from its host."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class MigrationTuning:
    """How hard a live migration may press on the network and on the guest. None: as the hypervisor does."""

    bandwidth_mib_s: int | None = None
    max_downtime_ms: int | None = None
    """How long the guest may stand still at the end; the migration goes on until that is enough."""
    auto_converge: bool = False
    """Slow the guest down where it writes its memory faster than that is sent."""


UNTUNED = MigrationTuning()


@dataclass(frozen=True, slots=True)
class MigrationResult:
    """What a migration took, as the hypervisor counted it; None where its figures are no longer there.

    `downtime_s`: how long the guest stood still.
    """

    total_s: float | None
    downtime_s: float | None


@dataclass(frozen=True, slots=True)
class SnapshotSpec:
    """A state of a machine, kept in its disks under `snapshot_id`; `kind`: `memory` (and disks) or `disk`."""

    snapshot_id: str
    kind: str


@dataclass(frozen=True, slots=True)
class SnapshotSeen:
    """A state as found in a machine's disks."""

    snapshot_id: str
    kind: str
    size_mib: int
    """Of the memory kept with it. Disks cost nothing until the guest overwrites what was kept."""
    whole: bool = True
    """Every disk has it."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the drivers in use can do, by URI of host or datastore: read before a claim, which asks nobody."""

    migrating: frozenset[str] = frozenset()
    """Hosts that can hand a running machine over."""
    snapshotting: frozenset[str] = frozenset()
    """Hosts that can keep states of a machine."""
    shared: frozenset[str] = frozenset()
    """Datastores whose files are the same on every host."""
    movable: frozenset[str] = frozenset()
    """Datastores of which each host has a part of its own, and whose disks can be taken to another one."""
    filtering: frozenset[str] = frozenset()
    """Networks that can hold back what security groups do not let through."""
    snapshot_disks: frozenset[str] = frozenset()
    """Datastores whose disks can hold states of a machine."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host says of itself."""

    hostname: str
    host_uuid: str
    arch: str
    domain_types: tuple[str, ...]
    """Usable libvirt domain types for `arch`, for example ("kvm", "qemu")."""
    vcpu: int
    memory_mib: int
    load_1m: float
    hypervisor_version: str
    cpu_model: str = ""


@dataclass(frozen=True, slots=True)
class HostUse:
    """How busy a host is now. CPU seconds count from its boot, over all its CPUs; None: unknown."""

    load_1m: float
    machines: int | None
    """Virtual machines that run or are paused: processes of the hypervisor."""
    cpu_busy_s: float | None
    cpu_total_s: float | None
    memory_used_mib: float | None
    memory_mib: float | None


@dataclass(frozen=True, slots=True)
class StorageUse:
    """A datastore's size and what is free."""

    capacity_mib: int
    free_mib: int
