"""What can be asked for: the parameters of the flows, and of their forms in the Prefect UI.

Types and descriptions only; what is allowed is decided in vdc/claims, in one sentence each. No field holds
a secret or a person's data: templates are named, not sent along.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeployRequest(Request):
    """Make machines from a template."""

    template: str = Field(description="Name of the template.")
    count: int = Field(default=1, description="How many machines.")
    tenant: str = Field(default="default", description="Whose machines they are.")
    name: str = Field(
        default="", description="Name of the machine; with a count above 1, -1, -2, ... is appended."
    )
    vcpu: int | None = Field(default=None, description="Virtual CPUs, instead of the template's.")
    memory_mib: int | None = Field(default=None, description="Memory in MiB, instead of the template's.")
    disk_mib: int | None = Field(default=None, description="Disk size in MiB, instead of the template's.")
    vnets: list[str] | None = Field(default=None, description="Virtual networks, instead of the template's.")
    policy: str = Field(
        default="spread", description="spread, pack, load-aware, or a rank expression (higher wins)."
    )
    group: str = Field(default="", description="Placement group that the machines join.")
    start: Literal["running", "paused", "stopped"] = Field(
        default="running", description="State after deployment."
    )
    atomic: bool = Field(default=False, description="All or none: if one machine fails, take all back.")
    burst: Literal["never", "when-full"] = Field(
        default="never", description="Whether what our hosts cannot take may run in a cloud."
    )


class TerminateRequest(Request):
    """Remove machines for good."""

    vms: list[str] = Field(description="Names or ids of the machines.")
    tenant: str = Field(default="", description="Whose machines, where a name is not unique.")

    @property
    def label(self) -> str:
        """Short, also for a thousand machines: Prefect repeats a run's name in each event of its tasks."""
        first, more = ", ".join(self.vms[:3]), len(self.vms) - 3
        return f"{first} and {more} more" if more > 0 else first


class MigrateRequest(Request):
    """Move a running machine to another host; it goes on running."""

    vm: str = Field(description="Name or id of the machine.")
    tenant: str = Field("", description="Whose machine, where the name is not unique.")
    to: str = Field("", description="Name of the host; empty: the best one.")


class SnapshotRequest(Request):
    """Keep a machine's present state, to be able to take it back."""

    vm: str = Field(description="Name or id of the machine.")
    tenant: str = Field(default="", description="Whose machine, where the name is not unique.")
    label: str = Field(default="", description="Name of the snapshot; empty: snap-1, snap-2, ...")
    kind: Literal["auto", "memory", "disk"] = Field(
        default="auto", description="memory (and disks), disk (alone); auto: with memory if it runs."
    )


class RevertRequest(Request):
    """Take a machine back to a snapshot; what came after is lost."""

    vm: str = Field(description="Name or id of the machine.")
    label: str = Field(description="Name of the snapshot.")
    tenant: str = Field(default="", description="Whose machine, where the name is not unique.")


class DeleteSnapshotRequest(Request):
    """Forget a snapshot; the machine stays as it is."""

    vm: str = Field(description="Name or id of the machine.")
    label: str = Field(description="Name of the snapshot.")
    tenant: str = Field(default="", description="Whose machine, where the name is not unique.")


class EnrollHostRequest(Request):
    """Put a hypervisor host into service."""

    name: str = Field(description="Name of the host in the inventory.")
    uri: str = Field(description="libvirt URI: qemu+ssh://root@h1/system, or simulated:///path?host=h1.")
    host_key: str = Field(
        default="", description="SHA256:... fingerprint of the host's SSH key, to be accepted."
    )
    domain_type: str = Field(
        default="", description="kvm or qemu (emulation); empty: kvm where the host offers it."
    )
    migration_address: str = Field(
        default="", description="Where other hosts reach it; empty: as in the URI."
    )
    datastores: list[str] | None = Field(
        default=None, description="Datastores it must mount; none given: all."
    )
    networks: list[str] = Field(default=["vlan://ovsbr0"], description="Uplinks that it must have.")
    cpu_overcommit: float = Field(default=1.0, description="vCPUs sold for each CPU of the host.")
    memory_overcommit: float = Field(default=1.0, description="MiB sold for each MiB of the host.")
    reserved_memory_mib: int = Field(default=1024, description="Memory in MiB kept for the host itself.")
    labels: dict[str, str | float] = Field(default={}, description="Attributes for rank expressions.")


class ImportImageRequest(Request):
    """Bring an image file of the control machine into a datastore."""

    file: str = Field(description="Path of the image on the control machine.")
    name: str = Field(description="Name of the image.")
    datastore: str = Field(description="Where it is kept.")
    sha256: str = Field(default="", description="Checksum that the file must have, in hex.")


class OnboardTenantRequest(Request):
    """Make a tenant what its file says."""

    file: str = Field(description="Path of the tenant's file (YAML) on the control machine.")


class BillRequest(Request):
    """Issue the bills of a month that is over."""

    month: str = Field(default="", description="Such as 2026-10; empty: the last one that is over.")
    tenant: str = Field(default="", description="Whose bill; empty: every tenant's.")
    tariff: str = Field(default="", description="Tariff file on the control machine; empty: list prices.")
