"""What every driver promises. One contract suite (tests/contract) runs against all of them.

`ensure_*` makes it so and returns True where this call did it, False where it was so already; every
one may be run again after any interruption. `read_*` observes and changes nothing.

All raise `vdc.errors`: `HostUnreachable`, `TimedOut` or `Busy` where a retry may help, `DriverFailure`
(with host, command and stderr) where it will not. Every call has a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vdc.model import (
    UNTUNED,
    Attachment,
    DeviceAttachment,
    DevicesSeen,
    DiskSpec,
    DomainCounters,
    DomainSeen,
    DomainSpec,
    FileSource,
    HostFacts,
    HostRef,
    HostUse,
    ImageSeen,
    ImageSpec,
    InstanceSeen,
    LaunchSpec,
    MigrationResult,
    MigrationTuning,
    NicSpec,
    ShapeSeen,
    SnapshotSeen,
    SnapshotSpec,
    StorageUse,
    VncEndpoint,
    VnetSpec,
)


@dataclass(frozen=True, slots=True)
class Access:
    """How the control plane reaches hosts."""

    key_file: Path
    known_hosts_file: Path
    connect_timeout_s: float = 10.0
    call_timeout_s: float = 60.0
    peer_scheme: str = "qemu+ssh"
    """How one host's libvirt reaches another's, to hand a machine over."""


@dataclass(frozen=True, slots=True)
class HypervisorCapabilities:
    live_migration: bool
    snapshots: bool


@dataclass(frozen=True, slots=True)
class DatastoreCapabilities:
    shared: bool
    """The same files are seen on every host that mounts it."""
    disk_format: str
    clone: str
    """`overlay` (only the delta is written) or `copy`."""
    snapshots: bool
    movable: bool = False
    """Each host has a part of its own, and a disk can be brought from one to another."""
    locked: bool = True
    """A disk that a guest has open can be told from others: what asks for such a one raises Busy."""


@dataclass(frozen=True, slots=True)
class NetworkCapabilities:
    isolated: bool
    """Machines on two virtual networks of this driver never see each other."""
    vlan: bool
    """A virtual network of this driver needs a VLAN id."""
    filtering: bool = False
    """It follows connections: cards may have the rules of security groups."""
    peers: bool = False
    """It carries frames to the other hosts by itself, and has to be told where these are: `ensure_peers`."""


class Console(Protocol):
    """A machine's serial port, attached."""

    def send(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class Hypervisor(Protocol):
    """A host's domains. One object per host; safe to use from several threads."""

    capabilities: HypervisorCapabilities

    def read_facts(self) -> HostFacts: ...

    def read_use(self) -> HostUse:
        """How busy the host is; cheap enough to be asked every second."""

    def read_domains(self) -> list[DomainSeen]:
        """All domains on the host, ours and others'."""

    def read_domain(self, name: str) -> DomainSeen | None: ...

    def read_counters(self) -> list[DomainCounters]:
        """Counters of all domains that run or are paused, ours and others'."""

    def ensure_defined(self, spec: DomainSpec) -> bool: ...

    def ensure_started(self, name: str, *, paused: bool = False) -> bool:
        """Start it, or let it go on, unless it is to be `paused`.

        Raises DriverFailure where it stood still for want of room in its datastore, and at once does again.
        """

    def ensure_shut_down(self, name: str, *, timeout_s: float) -> bool:
        """Ask the guest to shut down, and wait for it; whether the domain is off. A paused guest cannot."""

    def ensure_stopped(self, name: str) -> bool:
        """Power off hard, and forget memory that was kept by `ensure_suspended`."""

    def ensure_paused(self, name: str) -> bool:
        """`ensure_started` lets it go on."""

    def ensure_suspended(self, name: str, *, timeout_s: float) -> bool:
        """Keep the memory in a file of the host and power off; `ensure_started` goes on from there.

        Saving that takes longer than `timeout_s` is aborted (DriverFailure): the domain runs on.
        """

    def reboot(self, name: str, *, timeout_s: float) -> bool:
        """Ask the guest to reboot; whether it did so in time. Each call asks anew."""

    def reset(self, name: str) -> None:
        """Press the reset button. Each call resets anew."""

    def read_vnc(self, name: str) -> VncEndpoint:
        """Where the screen of a domain that runs listens."""

    def open_console(
        self,
        name: str,
        on_output: Callable[[bytes], None],
        on_end: Callable[[str], None],
        *,
        force: bool = False,
    ) -> Console:
        """Attach to the serial port of a domain that runs. One at a time: `force` throws others out.

        `on_output` and `on_end` (with the reason) are called from another thread.
        """

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
        """Bring a running domain to another host without stopping it; go on with a migration under way.

        Its disks and networks must be there. Disks with an index in `copy` are there as they were made, under
        the same path: what the guest has written to them since is brought too. `tuning` is of a migration
        that this call begins. `progress(done_bytes, total_bytes)` is called while it runs; one that takes
        longer than `timeout_s` is aborted (DriverFailure). An error does not say where the domain is:
        `ensure_settled` does.
        """

    def ensure_settled(self, name: str, destination: HostRef, *, timeout_s: float) -> MigrationResult | None:
        """See to it that a domain which was to migrate from here is on one host, and on one only.

        Waits for a migration under way, at most `timeout_s`, then aborts it. What libvirt left on the other
        host is removed, if it never ran. Returns what is known of the migration if the domain is on the
        destination, None if it is here or on neither. Raises DriverFailure, and touches nothing, where it
        runs on both.
        """

    def read_shape(self, spec: DomainSpec) -> ShapeSeen:
        """What the domain has of CPUs, memory and disks."""

    def ensure_shape(self, spec: DomainSpec, *, timeout_s: float) -> ShapeSeen:
        """Give a domain that runs the vCPUs and the memory of its description, as far as its guest lets us.

        More vCPUs are plugged in, fewer unplugged, memory taken or given back by its balloon; of what goes
        beyond the bounds it was started with, or what its guest does not do within `timeout_s`, it keeps
        what it had. Its description stays as it is, and so does a domain that is off. Returns what it has.
        """

    def ensure_disk_grown(self, spec: DomainSpec, index: int, size_mib: int) -> bool:
        """Make that one of its disks as large, also while it runs. A larger one stays as it is."""

    def grow_root(self, name: str, *, timeout_s: float) -> str:
        """Have the guest grow its root file system to its disk, as it does at its next boot.

        Why it did not, within `timeout_s` or at all; empty where it did. One that is off is not asked.
        """

    def read_devices(self, name: str) -> DevicesSeen:
        """What is plugged into the domain. Raises NotFound."""

    def ensure_attached(self, name: str, device: DeviceAttachment) -> bool:
        """Plug a disk, a drive with its image, or a card into a domain that runs.

        Its description stays as it is, and so does a domain that is off.
        """

    def ensure_detached(self, name: str, device: DeviceAttachment, *, timeout_s: float) -> bool:
        """Take it out of a domain that runs; whether the domain is without it then.

        The guest is asked, and may take until `timeout_s`, or never let go: then it has it still, and may let
        go of it later. Its description stays as it is. A domain that is off, or not there, is without it.
        """

    def refresh_seed(self, spec: DomainSpec) -> None:
        """Show the guest of a domain that runs its seed as the file is now. Each call does so anew."""

    def run_in_guest(self, name: str, command: Sequence[str], *, timeout_s: float) -> str:
        """What a program printed that the agent in the guest of a domain that runs has run.

        An agent that does not answer yet is waited for. Where an answer is late, the program may run twice.
        Raises Busy where none answers within `timeout_s`, or the program has not ended by then; DriverFailure
        where it ended with an exit code other than 0.
        """

    def read_snapshots(self, spec: DomainSpec) -> list[SnapshotSeen]:
        """States kept in the domain's disks, by id; also where there is no such domain (any more)."""

    def ensure_snapshot(self, spec: DomainSpec, snapshot: SnapshotSpec, *, timeout_s: float) -> bool:
        """Keep the domain's present state in its disks: all of them, at one moment.

        With memory: the domain must run, and stands still meanwhile. A half-made one is made anew.
        """

    def ensure_reverted(
        self, spec: DomainSpec, snapshot: SnapshotSpec, *, start: str, timeout_s: float
    ) -> None:
        """Make the domain what it was; what came after is lost. Each call takes it back anew.

        With memory it runs on from there. Of disks alone: it is powered off hard, and started if `start` is
        `running` or `paused`. Raises DriverFailure, and touches nothing, where a disk does not have it.
        """

    def ensure_snapshot_removed(self, spec: DomainSpec, snapshot_id: str) -> bool:
        """Forget the state, also a half-made one, and also where there is no such domain (any more)."""

    def ensure_removed(self, name: str) -> bool:
        """Power off hard and undefine, with what libvirt keeps beside it (managed save, snapshots)."""


class Datastore(Protocol):
    """A place for images, disks and seeds, worked on from one host that mounts it.

    Files have plain names, without directories; everything that a call needs is in its arguments.
    """

    capabilities: DatastoreCapabilities

    def path(self, file: str) -> str:
        """How QEMU on the host is told of `file`: its absolute path, or a URL."""

    def read_use(self) -> StorageUse: ...

    def read_files(self) -> Mapping[str, int]:
        """Name -> size in bytes of every file of ours, half-written ones included.

        They begin with `vm-`, `volume-` or `image-`.
        """

    def ensure_writable(self) -> bool:
        """Prove the mount: write, read back and remove a probe file. Raises DriverFailure if it is not."""

    def ensure_image(
        self, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        """Upload the local file `source` as `image.file`, whole or not at all.

        `progress(done_bytes, total_bytes)` is called while it runs.
        """

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool:
        """Make `image.file` of another file, where the bytes are: whole, needing no other, or not at all.

        Raises Unsupported for a snapshot where disks hold none, Busy where a guest writes to the source.
        """

    def read_image(self, image: ImageSpec) -> ImageSeen:
        """Read the image to its end. Raises DriverFailure where it is not there."""

    def ensure_disk(self, disk: DiskSpec) -> bool:
        """Make the disk where the bytes are: overlay or copy of its image, grown to its size."""

    def ensure_disk_from(self, disk: DiskSpec, source: HostRef) -> bool:
        """Copy the disk from another host's part of the datastore: whole, or not at all.

        Nobody may write to it meanwhile. Raises Unsupported where disks are not `movable`.
        """

    def ensure_seed(self, file: str, content: bytes) -> bool:
        """Write a small file whole; False if it was there with the same content."""

    def ensure_removed(self, files: Sequence[str]) -> bool:
        """Remove these files and half-written forms of them."""

    def ensure_renamed(self, file: str, to: str, *, writable: bool) -> bool:
        """Call a file otherwise; `writable`: by its owner, else by nobody. False if it was called so.

        No byte is copied, and nothing is overwritten. Raises DriverFailure where neither name is there, or
        both are.
        """

    def check_disk(self, file: str) -> list[str]:
        """What is wrong inside a disk, as far as its format tells; empty: nothing.

        A file that is not there is such a finding. Raises Busy while a guest has it open, if its format
        keeps anything beside the guest's bytes; where disks are not `locked`, what is told of one that is
        written to meanwhile means nothing.
        """

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Write what a guest reads of a disk into the local file `to`: qcow2 that needs no other. Its sha256.

        `to` is replaced by the whole, or stays as it was. A copy is in the datastore meanwhile, by a name by
        which it goes with the disk. `progress(done_bytes, total_bytes)` is called while the bytes come.

        Raises Busy where a guest writes to the disk, and DriverFailure where `to` cannot be written.
        """

    def read_sha256(self, file: str) -> str:
        """Checksum of the file's bytes, in hex, worked out where they are."""


class Network(Protocol):
    """The switch of one host."""

    capabilities: NetworkCapabilities

    def ensure_network(self, vnet: VnetSpec) -> bool:
        """Make the host able to carry `vnet`. Raises DriverFailure if the uplink is missing."""

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        """Pure: how the card goes into the domain's description."""

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        """Make the cards' ports, each in its network: all at once, before the machine is there.

        A guest sends with its card's MAC and address and with no other: frames that it forges are dropped. A
        port passes nothing before its rules are in force. It stays until it is removed, whether a domain
        uses it or not. Expects `ensure_network` of each network. Raises Unsupported for a card with the rules
        of security groups where the driver is not `filtering`.
        """

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        """Devices of those of the cards whose port or rules are not, or not all, there."""

    def read_ports(self) -> list[str]:
        """Devices of ours (see `vdc.model.nic_device`) on the switch."""

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        """Remove ports that no domain uses any more, and their rules."""

    def ensure_peers(self, peers: Sequence[str]) -> bool:
        """Let all networks here reach the hosts at these IPv4 addresses, and no others.

        The host keeps them: a network that it carries later reaches the same. There is nothing to do
        where the driver needs no `peers`.
        """

    def read_peers_amiss(self, peers: Sequence[str]) -> list[str]:
        """Addresses that are missing, or too many, for `ensure_peers` of these to have been the last.

        Raises DriverFailure where the uplink can carry no tunnel.
        """


class Cloud(Protocol):
    """A provider's region. Instances carry tags of ours (machine, site, tenant, token) from their launch on.

    Raises, beside the above: `Throttled` where the provider asks for a slower pace, `NoCapacity` where it
    has no such instance to give now (another type or zone may do).
    """

    def check_image(self, ami: str) -> None:
        """Prove that the endpoint answers, that we may ask, and that the image is there.

        Raises NotFound where it is not.
        """

    def ensure_launched(self, spec: LaunchSpec) -> InstanceSeen:
        """Start an instance, or find the one that this token has started. One call, never repeated here."""

    def read_instances(self, site: str) -> list[InstanceSeen]:
        """All instances of the site, those that are gone left out."""

    def read_instance(self, instance_id: str) -> InstanceSeen | None:
        """One instance; None where the cloud does not know it (any more)."""

    def find_instances(self, vm_id: str) -> list[InstanceSeen]:
        """The instances of one machine (there should be one), those that are gone left out."""

    def ensure_terminated(self, instance_id: str) -> bool: ...
