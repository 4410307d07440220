"""What can be asked for: the parameters of the flows, and of their forms in the Prefect UI.

Types and descriptions only; what is allowed is decided in vdc/claims, in one sentence each. No field holds
a secret or a person's data: templates are named, not sent along.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vdc.model import MigrationTuning


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeployRequest(Request):
    """Make machines from a template."""

    template: str = Field(description="Name of the template.")
    count: int = Field(default=1, description="How many machines.")
    tenant: str = Field(default="default", description="Whose machines they are.")
    name: str = Field(
        default="",
        description="Name of the machine; with a count above 1, -1, -2, ... is appended. Empty: made up.",
    )
    vcpu: int | None = Field(
        title="vCPU", default=None, description="Virtual CPUs of each; None: the template's."
    )
    memory_mib: int | None = Field(
        title="Memory (MiB)", default=None, description="Memory of each in MiB; None: the template's."
    )
    disk_mib: int | None = Field(
        title="Disk (MiB)", default=None, description="Disk size of each in MiB; None: the template's."
    )
    vnets: list[str] | None = Field(
        title="Virtual networks", default=None, description="Names of virtual networks; None: the template's."
    )
    policy: str = Field(
        default="spread", description="spread, pack, load-aware, or a rank expression (higher wins)."
    )
    group: str = Field(default="", description="Placement group that the machines join; empty: none.")
    start: Literal["running", "paused", "stopped"] = Field(
        default="running", description="State after deployment."
    )
    atomic: bool = Field(default=False, description="All or none: if one machine fails, take all back.")
    security_groups: list[str] = Field(
        default=[], description="Names of the tenant's security groups that the machines are in."
    )
    burst: Literal["never", "when-full"] = Field(
        default="never", description="Whether what our hosts cannot take may run in a cloud."
    )
    context: str = Field(
        default="",
        description="File on the control machine (YAML): what they are told besides what site, tenant and "
        "template say; empty: nothing.",
    )
    hold: bool = Field(default=False, description="Take the place now; make the machines when released.")
    at: str = Field(
        default="", description="As hold, and release them at this time, such as 2026-12-01T06:00Z."
    )
    scale_test: str = Field(
        default="", description="Id of the scale test that the machines live and die with; else empty."
    )

    @property
    def label(self) -> str:
        """`4 x tiny for acme`, `4 x tiny as web for acme`."""
        return f"{self.count} x {self.template}{self.name and f' as {self.name}'} for {self.tenant}"


class MachinesRequest(Request):
    """Something to be done to machines."""

    vms: list[str] = Field(title="Machines", description="Names or ids of the machines.")
    tenant: str = Field(default="", description="Whose machines; needed where a name is not unique.")

    @property
    def label(self) -> str:
        """Short, also for a thousand machines: Prefect repeats a run's name in each event of its tasks."""
        first, more = ", ".join(self.vms[:3]), len(self.vms) - 3
        return f"{first} and {more} more" if more > 0 else first


class TerminateRequest(MachinesRequest):
    """Remove machines for good."""


Verb = Literal["start", "stop", "reboot", "reset", "pause", "resume", "suspend"]


class PowerRequest(MachinesRequest):
    """Switch machines on, off, or over."""

    verb: Verb = Field(description="What to do; suspend keeps the memory on the host's disk.")
    timeout_s: float = Field(
        default=60.0, description="Seconds that a guest has to stop or reboot before it is done hard."
    )
    hard: bool = Field(default=False, description="Do not ask the guest: pull the plug.")


class AssignGroupsRequest(MachinesRequest):
    """Put machines into security groups, or take them out."""

    verb: Literal["assign", "unassign"] = Field(description="unassign takes them out.")
    groups: list[str] = Field(description="Names of security groups of the machines' tenant.")


class ChangeGroupRequest(Request):
    """Add a rule to a security group, or remove it: at once for all machines in it."""

    verb: Literal["add", "remove"] = Field(description="What to do with the rule.")
    group: str = Field(description="Name of the security group.")
    tenant: str = Field(default="default", description="Whose group.")
    direction: Literal["in", "out"] = Field(description="Who connects: in, others; out, the machine.")
    protocol: Literal["tcp", "udp", "icmp", "any"] = Field(description="What of IPv4.")
    ports: str = Field(
        default="", description="A port or a range of what is connected to, such as 8000-8080; empty: all."
    )
    cidr: str = Field(
        title="CIDR", default="0.0.0.0/0", description="Where the other side is, such as 10.0.0.0/8."
    )
    peer: str = Field(
        title="Other group",
        default="",
        description="Security group of the same tenant whose machines are the other side; empty: the CIDR.",
    )


class RouterRequest(Request):
    """Something to be done to the router of a network."""

    vnet: str = Field(title="Virtual network", description="Name of the tenant's network that it serves.")


class CreateRouterRequest(RouterRequest):
    """Make a network's gateway: a machine that translates, forwards, and tells machines their addresses."""

    template: str = Field(
        default="router", description="Name of the template: its one network is a public one."
    )
    address: str = Field(
        title="Public address", default="", description="Its address there; empty: the next free one."
    )


class ForwardPortRequest(RouterRequest):
    """Have a port of the router's public address lead to a machine, or no longer."""

    verb: Literal["add", "remove"] = Field(description="What to do with the forward.")
    protocol: Literal["tcp", "udp"] = Field(description="Of what comes to the port.")
    port: int = Field(description="Port of the public address.")
    vm: str = Field(title="Machine", default="", description="Name of the machine; not needed to remove.")
    to_port: int | None = Field(title="To port", default=None, description="Its port; None: the same.")


class TellRouterRequest(RouterRequest):
    """Tell the router what has changed in its network."""


class RedeployRouterRequest(RouterRequest):
    """Make the router's machine anew, of its template's present image; it knows what it knew."""


class DeleteRouterRequest(RouterRequest):
    """Remove the router, and give its public address back."""


class ScaleTestRequest(Request):
    """Measure how fast machines are made and removed, ours against a bare loop; none of them stays."""

    template: str = Field(description="Name of the template whose machines are made.")
    count: int = Field(default=40, description="How many machines at a time.")
    repetitions: int = Field(default=3, description="How often, in turn with the floor.")
    start: Literal["running", "paused"] = Field(
        default="paused", description="paused: a guest's own boot takes no CPU from what is measured."
    )
    floor: bool = Field(
        default=True,
        description="Also measure plain libvirt and SSH calls; on simulated hosts there is none.",
    )
    tenant: str = Field(default="default", description="Whose machines they are, and whose quota they use.")
    out: str = Field(
        default="",
        description="Directory on the control machine for the frames and the page; "
        "empty: scale-tests/NAME in VDC_HOME.",
    )


class MigrateRequest(Request):
    """Move a machine to another host: it goes on running, or stays stopped."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    to: str = Field(title="To host", default="", description="Name of the host; empty: the best one.")
    with_storage: bool = Field(
        default=False, description="Take its disks along, where each host has a datastore for itself."
    )
    cold: bool = Field(
        default=False,
        description="Stop it, move it, start it there; for what cannot go over while it runs.",
    )
    timeout_s: float = Field(
        default=60.0, description="Seconds that its guest has to shut down before the plug is pulled (cold)."
    )
    bandwidth_mib_s: int | None = Field(
        title="Bandwidth (MiB/s)", default=None, description="At most this much network; None: all there is."
    )
    max_downtime_ms: int | None = Field(
        title="Longest standstill (ms)",
        default=None,
        description="Milliseconds that the machine may stand still at the end; None: as QEMU does (300).",
    )
    auto_converge: bool = Field(
        default=False, description="Slow the machine down where it writes its memory faster than it is sent."
    )

    @property
    def label(self) -> str:
        return f"{self.vm} to {self.to}" if self.to else self.vm

    @property
    def tuning(self) -> MigrationTuning:
        return MigrationTuning(self.bandwidth_mib_s, self.max_downtime_ms, self.auto_converge)


class DrainRequest(Request):
    """Move all machines away from a host, which takes no new ones any more."""

    host: str = Field(description="Name of the host.")
    with_storage: bool = Field(
        default=False, description="Take disks along, where each host has a datastore for itself."
    )


class ResizeRequest(Request):
    """Give a machine more or less; what it cannot take while it runs, it has from its next start on."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    vcpu: int | None = Field(title="vCPU", default=None, description="Virtual CPUs; None: as it is.")
    memory_mib: int | None = Field(
        title="Memory (MiB)", default=None, description="Memory in MiB; None: as it is."
    )
    disk_mib: int | None = Field(
        title="Disk (MiB)", default=None, description="Size of its first disk in MiB, which only grows."
    )


class AttachDiskRequest(Request):
    """Give a machine another disk, also while it runs: a new one, one that was kept, or an ISO image."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    size_mib: int | None = Field(
        title="Size (MiB)", default=None, description="Of a new, empty disk; None: one of the two below."
    )
    name: str = Field(default="", description="Name of a new disk; empty: made up.")
    volume: str = Field(title="Kept disk", default="", description="Name of a disk that was kept.")
    iso: str = Field(title="ISO image", default="", description="Name of an image, put into a drive.")


class DetachDiskRequest(Request):
    """Take a disk from a machine, also while it runs."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    disk: str = Field(description="Name of the disk, or of the ISO image.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    keep: bool = Field(
        default=False, description="Keep the disk, with what is on it; else it is removed for good."
    )


class AttachNicRequest(Request):
    """Give a machine another network card, also while it runs."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    vnet: str = Field(title="Virtual network", description="Name of the network.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    address: str = Field(default="", description="Address of the card; empty: the next free one.")


class DetachNicRequest(Request):
    """Take a network card from a machine, also while it runs."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    nic: str = Field(
        title="Card", description="Its address, its MAC, or its network if that is the only one."
    )
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")


class RemoveDiskRequest(Request):
    """Remove a kept disk for good."""

    disk: str = Field(description="Name of the disk.")
    tenant: str = Field(default="default", description="Whose disk.")


class SnapshotRequest(Request):
    """Keep a machine's present state, to be able to take it back."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")
    label: str = Field(
        title="Snapshot", default="", description="Name of the snapshot; empty: snap-1, snap-2, ..."
    )
    kind: Literal["auto", "memory", "disk"] = Field(
        default="auto", description="memory (and disks), disk (alone); auto: with memory if it runs."
    )
    keep_days: int | None = Field(
        title="Kept for (days)",
        default=None,
        description="Days after which it is removed; None: as long as it may be kept.",
    )


class RevertRequest(Request):
    """Take a machine back to a snapshot; what came after is lost."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    label: str = Field(title="Snapshot", description="Name of the snapshot.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")


class DeleteSnapshotRequest(Request):
    """Forget a snapshot; the machine stays as it is."""

    vm: str = Field(title="Machine", description="Name or id of the machine.")
    label: str = Field(title="Snapshot", description="Name of the snapshot.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")


class EnrollHostRequest(Request):
    """Put a hypervisor host into service."""

    name: str = Field(description="Name of the host in the inventory.")
    uri: str = Field(
        title="URI", description="libvirt URI: qemu+ssh://root@h1/system, or simulated:///path?host=h1."
    )
    host_key: str = Field(
        title="SSH host key",
        default="",
        description="SHA256:... fingerprint of the host's SSH key, to be accepted.",
    )
    domain_type: str = Field(
        default="", description="kvm or qemu (emulation); empty: kvm where the host offers it."
    )
    migration_address: str = Field(
        default="", description="Where other hosts reach it; empty: as in the URI."
    )
    datastores: list[str] | None = Field(default=None, description="Datastores it must mount; None: all.")
    networks: list[str] = Field(default=["vlan://ovsbr0"], description="Uplinks that it must have.")
    cpu_overcommit: float = Field(
        title="CPU overcommit", default=1.0, description="vCPUs sold for each CPU of the host."
    )
    memory_overcommit: float = Field(default=1.0, description="MiB sold for each MiB of the host.")
    reserved_memory_mib: int = Field(
        title="Reserved memory (MiB)", default=1024, description="Memory in MiB kept for the host itself."
    )
    labels: dict[str, str | float] = Field(default={}, description="Attributes for rank expressions.")


class ImportImageRequest(Request):
    """Bring an image into a datastore, from a file of the control machine or from a URL."""

    file: str = Field(
        title="File or URL", description="Path on the control machine, or a URL of http, https or file."
    )
    name: str = Field(description="Name of the image.")
    datastore: str = Field(description="Where it is kept.")
    sha256: str = Field(
        title="SHA-256",
        default="",
        description="Checksum that the file must have, in hex; needed for http, which proves nothing itself.",
    )
    tenant: str = Field(
        default="",
        description="Whose image it is, and nobody else's until it is published; empty: everyone's.",
    )


class SaveAsRequest(Request):
    """Make a new image of a machine's disk."""

    vm: str = Field(title="Machine", description="Name or id of the machine; running or stopped.")
    image: str = Field(description="Name of the new image.")
    tenant: str = Field(default="", description="Whose machine; needed where the name is not unique.")


class CloneImageRequest(Request):
    """Make a new image of another one."""

    image: str = Field(description="Name of the image.")
    name: str = Field(description="Name of the new image.")
    tenant: str = Field(
        default="",
        description="Whose the new image is, and nobody else's until it is published; empty: as the other.",
    )


class DeleteImageRequest(Request):
    """Remove an image that nothing uses any more."""

    image: str = Field(description="Name of the image.")


class SwitchImageRequest(Request):
    """Let one machine at a time write to an image, or let nobody write to it any more."""

    image: str = Field(description="Name of the image.")
    persistent: bool = Field(description="Whether it keeps what its machine writes.")


class OnboardTenantRequest(Request):
    """Make a tenant what its file says."""

    file: str = Field(description="Path of the tenant's file (YAML) on the control machine.")
    welcome: str = Field(
        title="Welcome sheet to",
        default="",
        description="Directory on the control machine for the customer's sheet; empty: none is written.",
    )


class OffboardTenantRequest(Request):
    """Remove a tenant, after its data was exported; its bills are kept."""

    tenant: str = Field(description="Name of the tenant.")
    export: str = Field(
        title="Export to", description="Directory on the control machine for the tenant's data."
    )
    with_machines: bool = Field(default=False, description="Its machines go too, with their disks.")
    with_disks: bool = Field(default=False, description="Its disks are exported too.")


class VerifyRequest(Request):
    """Look whether the platform is sound; nothing is changed."""

    bills_since: datetime | None = Field(
        default=None, description="Check the bills from this instant on; None: of the last day."
    )
    besides: str = Field(default="", description="Id of an operation that may be open; else empty.")


class BurninRequest(Request):
    """Random operations by several users at once, on machines of their own that none of them stays."""

    template: str = Field(description="Name of the template whose machines are made.")
    operations: int = Field(default=200, description="How many operations, by all users together.")
    users: int = Field(default=4, description="How many users at the same time.")
    seed: int = Field(default=1, description="Of what is drawn.")
    max_machines: int = Field(default=8, description="How many machines at the same time, at most.")
    tenant: str = Field(default="default", description="Whose machines they are, and whose quota they use.")


class BillRequest(Request):
    """Issue the bills of a month that is over."""

    month: str = Field(default="", description="Such as 2026-10; empty: the last one that is over.")
    tenant: str = Field(default="", description="Whose bill; empty: every tenant's.")
    tariff: str = Field(default="", description="Tariff file on the control machine; empty: list prices.")

    @property
    def label(self) -> str:
        """`2026-10`, `2026-10 of acme`, `last month`."""
        return (self.month or "last month") + (f" of {self.tenant}" if self.tenant else "")
