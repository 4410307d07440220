"""A DomainSpec as libvirt's XML, and what we can read back from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lxml import etree

from vdc.errors import Invalid
from vdc.model import Attachment, CdromAttachment, DeviceAttachment, DiskAttachment, DomainSpec

NAMESPACE = "https://vdc.invalid/domain/1"
"""Of our metadata element. The name only has to be ours; nothing is ever fetched from it."""

_NFS = "nfs://"

_OWNER = f"metadata/{{{NAMESPACE}}}vm"

_SEED_DEVICE = "hda"

_MACHINES = {"x86_64": "pc"}
"""By architecture. Debian's cloud kernel sees the seed's IDE drive on `pc`, on q35 it does not."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Our metadata in a domain."""

    vm_id: str
    site: str
    spec: str
    """Short hash of the description that the domain was defined with."""


def build(spec: DomainSpec) -> str:
    """The domain's XML. Two equal specs give equal text. Raises Invalid for text that XML cannot hold."""
    try:
        domain = _domain(spec)
    except ValueError as error:
        raise Invalid(f"The description of {spec.name} contains a control character.") from error
    described = hashlib.sha256(etree.tostring(domain)).hexdigest()[:16]
    owner = domain.find(_OWNER)
    assert owner is not None, "made just now"
    owner.set("spec", described)
    etree.indent(domain)
    return str(etree.tostring(domain, encoding="unicode"))


def spec_hash(xml: str) -> str:
    """The hash that `build` has put into a domain's XML; empty if there is none."""
    owner = etree.fromstring(xml).find(_OWNER)
    return "" if owner is None else _owner(owner).spec


def read_owner(metadata_xml: str) -> Owner:
    """Read our metadata element."""
    return _owner(etree.fromstring(metadata_xml))


def _owner(element: etree._Element) -> Owner:
    return Owner(element.get("id", ""), element.get("site", ""), element.get("spec", ""))


def _domain(spec: DomainSpec) -> etree._Element:
    emulated = spec.domain_type == "qemu"
    os_type = _element("type", "hvm", arch=spec.arch)
    if spec.arch in _MACHINES:
        os_type.set("machine", _MACHINES[spec.arch])
    owner = etree.Element(f"{{{NAMESPACE}}}vm", nsmap={"vdc": NAMESPACE})
    for key, value in (
        ("id", spec.vm_id),
        ("name", spec.vm_name),
        ("tenant", spec.tenant),
        ("site", spec.site),
    ):
        owner.set(key, value)
    return _element(
        "domain",
        _element("name", spec.name),
        _element("uuid", spec.vm_id),
        _element("metadata", owner),
        _element("memory", str(spec.memory_mib), unit="MiB"),
        _vcpu(spec),
        _element("os", os_type, _element("boot", dev="hd")),
        _element("features", *_features(spec.arch, emulated)),
        *_cpu(spec),
        _element("clock", offset="utc"),
        _element("on_poweroff", "destroy"),
        _element("on_reboot", "restart"),
        _element("on_crash", "destroy"),
        _devices(spec),
        type=spec.domain_type,
    )


def _vcpu(spec: DomainSpec) -> etree._Element:
    if spec.max_vcpu <= spec.vcpu:
        return _element("vcpu", str(spec.vcpu))
    return _element("vcpu", str(spec.max_vcpu), current=str(spec.vcpu))


def _features(arch: str, emulated: bool) -> list[etree._Element]:
    features = [_element("acpi")]
    if arch == "x86_64":
        features.append(_element("apic"))
    if emulated:
        # The translation cache may grow to 1 GiB otherwise, many times the memory of a small guest.
        features.append(_element("tcg", _element("tb-cache", "32", unit="MiB")))
    return features


def _cpu(spec: DomainSpec) -> list[etree._Element]:
    if spec.domain_type == "kvm":
        return [_element("cpu", mode="host-model")]
    if spec.domain_type == "qemu" and spec.arch == "x86_64":
        # `max` would be 2.7 times slower under emulation.
        model = _element("model", "qemu64", fallback="allow")
        return [_element("cpu", model, mode="custom", match="exact")]
    return []


def _devices(spec: DomainSpec) -> etree._Element:
    # No <emulator>: libvirt takes that of its own capabilities for this type and architecture.
    devices = _element("devices")
    devices.extend(_disk(disk) for disk in spec.disks)
    if spec.seed_path:
        devices.append(_seed(spec.seed_path))
    if spec.cdroms:
        devices.append(_controller(spec.arch))
        devices.extend(_cdrom(cdrom) for cdrom in spec.cdroms)
    devices.extend(_nic(nic) for nic in spec.nics)
    devices.append(_element("serial", _element("target", port="0"), type="pty"))
    devices.append(_element("console", _element("target", type="serial", port="0"), type="pty"))
    agent = _element("target", type="virtio", name="org.qemu.guest_agent.0")
    devices.append(_element("channel", agent, type="unix"))
    # A screen for who sits at the virtual machine, reached through SSH: it has no password of its own.
    # With 1 MiB (text, 640x480) it costs 0.6 MB of the host's memory a machine, with 16 MiB 2.5 MB.
    devices.append(_element("graphics", type="vnc", autoport="yes", listen="127.0.0.1"))
    devices.append(_element("video", _element("model", type="vga", vram="1024")))
    devices.append(_element("memballoon", model="virtio"))
    devices.append(_element("rng", _element("backend", "/dev/urandom", model="random"), model="virtio"))
    return devices


def device_of(index: int) -> str:
    """What a machine's disk is called in its description: `vda`, `vdb`, ..."""
    return f"vd{chr(ord('a') + index)}"


def device(attachment: DeviceAttachment) -> str:
    """One device's XML, as it is in the domain's."""
    match attachment:
        case DiskAttachment():
            element = _disk(attachment)
        case CdromAttachment():
            element = _cdrom(attachment)
        case Attachment():
            element = _nic(attachment)
    return str(etree.tostring(element, encoding="unicode"))


def controller(arch: str) -> str:
    """What drives of a CdromAttachment are plugged into."""
    return str(etree.tostring(_controller(arch), encoding="unicode"))


def seed(path: str, *, empty: bool = False) -> str:
    """The drive with the seed, or without."""
    element = _seed(path)
    if empty:
        element.remove(element.find("source"))  # type: ignore[arg-type]
    return str(etree.tostring(element, encoding="unicode"))


def is_seed(disk: etree._Element) -> bool:
    """Whether a domain's `disk` is the drive with the seed."""
    target = disk.find("target")
    return target is not None and target.get("dev") == _SEED_DEVICE


def _controller(arch: str) -> etree._Element:
    element = _element("controller", type="scsi", index="0", model="virtio-scsi")
    if arch in _MACHINES:
        # Where it is in no other's way: libvirt places controllers first, and would move the network cards
        # of a machine that gets its first drive.
        at = {"domain": "0x0000", "bus": "0x00", "slot": "0x1e", "function": "0x0"}
        element.append(_element("address", type="pci", **at))
    return element


def _cdrom(cdrom: CdromAttachment) -> etree._Element:
    return _element(
        "disk",
        _element("driver", name="qemu", type=cdrom.format),
        _source(cdrom.path),
        _element("target", dev=f"sd{chr(ord('a') + cdrom.index)}", bus="scsi"),
        _element("readonly"),
        type=_kind(cdrom.path),
        device="cdrom",
    )


def _disk(disk: DiskAttachment) -> etree._Element:
    # cache=none: the host's page cache holds no second copy, and the disk may migrate live.
    return _element(
        "disk",
        _driver(disk),
        _source(disk.path),
        _element("target", dev=device_of(disk.index), bus="virtio"),
        type=_kind(disk.path),
        device="disk",
    )


def _driver(disk: DiskAttachment) -> etree._Element:
    element = _element("driver", name="qemu", type=disk.format, cache="none", discard="unmap")
    if not disk.path.startswith(_NFS):
        element.set("io", "native")
    return element


def _kind(path: str) -> str:
    return "network" if path.startswith(_NFS) else "file"


def _source(path: str) -> etree._Element:
    """A file of the host, or one that QEMU opens itself on a file server, as root there."""
    if not path.startswith(_NFS):
        return _element("source", file=path)
    server, _, name = path.removeprefix(_NFS).partition("/")
    host, root = _element("host", name=server), _element("identity", user="+0", group="+0")
    return _element("source", host, root, protocol="nfs", name=f"/{name}")


def path_of(disk: etree._Element) -> str:
    """What a disk or a drive of a domain has in it, named as in its attachment; empty: nothing."""
    source = disk.find("source")
    if source is None:
        return ""
    host = source.find("host")
    if source.get("protocol") == "nfs" and host is not None:
        return f"{_NFS}{host.get('name')}{source.get('name')}"
    return source.get("file", "")


def _seed(path: str) -> etree._Element:
    return _element(
        "disk",
        _element("driver", name="qemu", type="raw"),
        _source(path),
        _element("target", dev=_SEED_DEVICE, bus="ide"),
        _element("readonly"),
        type=_kind(path),
        device="cdrom",
    )


def _nic(nic: Attachment) -> etree._Element:
    interface = _element(
        "interface",
        _element("mac", address=nic.mac),
        # The port is there, with its rules: libvirt opens it and neither makes nor removes it.
        _element("target", dev=nic.device, managed="no"),
        _element("model", type="virtio"),
        type="ethernet",
    )
    if not nic.offloads:
        off = dict.fromkeys(("csum", "tso4", "tso6", "ecn", "ufo"), "off")
        driver = _element("driver", _element("host", gso="off", **off), _element("guest", **off), name="qemu")
        interface.append(driver)
    return interface


def _element(tag: str, /, *content: etree._Element | str, **attributes: str) -> etree._Element:
    element = etree.Element(tag)
    for key, value in attributes.items():
        element.set(key, value)
    for item in content:
        if isinstance(item, str):
            element.text = item
        else:
            element.append(item)
    return element
