"""A machine as its host's hypervisor is to know it. Without Prefect: a plan needs it too."""

from __future__ import annotations

from drivers import registry
from tasks.environment import environment
from vdc.model import (
    CdromAttachment,
    CdromSpec,
    Device,
    DeviceAttachment,
    DiskAttachment,
    DiskSpec,
    DomainSpec,
    NicSpec,
    VmSpec,
    vcpu_room,
)


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
        disks=tuple(_disk(spec, disk) for disk in spec.disks),
        seed_path=registry.datastore(spec.seed_datastore_uri, spec.host, access).path(spec.seed_file),
        nics=tuple(registry.network(n.vnet.uri, spec.host, access).attachment(n.vnet, n) for n in spec.nics),
        cdroms=tuple(_cdrom(spec, cdrom) for cdrom in spec.cdroms),
        # QEMU 7.2 was seen to die when a CPU was plugged into a guest that it emulates.
        max_vcpu=vcpu_room(spec.vcpu) if spec.host.domain_type == "kvm" else 0,
    )


def device_attachment(spec: VmSpec, device: Device) -> DeviceAttachment:
    """One of the machine's devices as its host's libvirt is to know it."""
    match device:
        case DiskSpec():
            return _disk(spec, device)
        case CdromSpec():
            return _cdrom(spec, device)
        case NicSpec():
            network = registry.network(device.vnet.uri, spec.host, environment().access)
            return network.attachment(device.vnet, device)


def _disk(spec: VmSpec, disk: DiskSpec) -> DiskAttachment:
    return DiskAttachment(_path(spec, disk), disk.format, disk.index)


def _cdrom(spec: VmSpec, cdrom: CdromSpec) -> CdromAttachment:
    return CdromAttachment(_path(spec, cdrom), cdrom.format, cdrom.index)


def _path(spec: VmSpec, of: DiskSpec | CdromSpec) -> str:
    return registry.datastore(of.datastore_uri, spec.host, environment().access).path(of.file)
