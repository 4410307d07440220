"""A machine as its host's hypervisor is to know it. Without Prefect: a plan needs it too."""

from __future__ import annotations

from drivers import registry
from tasks.environment import environment
from vdc.model import DiskAttachment, DomainSpec, VmSpec, vcpu_room


def domain_spec(spec: VmSpec) -> DomainSpec:
    """The machine as its host's libvirt is to know it."""
    access = environment().access
    return DomainSpec(
        name=spec.domain,
        vm_id=spec.vm_id,
        vm_name=spec.name,
        tenant=spec.tenant,
        site=spec.site,
        domain_type=spec.host.domain_type,
        arch=spec.host.arch,
        vcpu=spec.vcpu,
        memory_mib=spec.memory_mib,
        disks=tuple(
            DiskAttachment(registry.datastore(d.datastore_uri, spec.host, access).path(d.file), d.format)
            for d in spec.disks
        ),
        seed_path=registry.datastore(spec.seed_datastore_uri, spec.host, access).path(spec.seed_file),
        nics=tuple(registry.network(n.vnet.uri, spec.host, access).attachment(n.vnet, n) for n in spec.nics),
        # QEMU 7.2 was seen to die when a CPU was plugged into a guest that it emulates.
        max_vcpu=vcpu_room(spec.vcpu) if spec.host.domain_type == "kvm" else 0,
    )
