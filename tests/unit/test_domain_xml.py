"""The domain's XML is what libvirt's own schema allows, and says what the spec says."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import etree

from drivers.hypervisor import domain_xml
from tests.requires import missing
from vdc.errors import Invalid
from vdc.model import Attachment, DiskAttachment, DomainSpec, nic_device

SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")
VM_ID = "5f6497f5-f9c0-4bca-b054-d73d9ce81d8b"
NASTY = "a<b>&\"'é]]><!--x-->\t#{}$(reboot);"


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    if not SCHEMA.exists():
        missing(f"{SCHEMA} is not there (Debian package: libvirt0)")
    return etree.RelaxNG(file=str(SCHEMA))


def domain(disks: int = 1, nics: int = 1, *, seed: bool = True, **changes: object) -> DomainSpec:
    spec = DomainSpec(
        name=f"vm-{VM_ID}",
        vm_id=VM_ID,
        vm_name="web",
        tenant="acme",
        site="lab",
        domain_type="qemu",
        arch="x86_64",
        vcpu=2,
        memory_mib=96,
        disks=tuple(DiskAttachment(f"/srv/vdc/disk{i}", ("qcow2", "raw")[i % 2], i) for i in range(disks)),
        seed_path="/srv/vdc/seed.iso" if seed else None,
        nics=tuple(
            Attachment(nic_device(VM_ID, i), f"52:54:00:00:00:0{i}", offloads=False) for i in range(nics)
        ),
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


def check(schema: etree.RelaxNG, spec: DomainSpec) -> etree._Element:
    tree = etree.fromstring(domain_xml.build(spec))
    assert schema.validate(tree), schema.error_log
    return tree


@pytest.mark.parametrize("domain_type", ["kvm", "qemu"])
@pytest.mark.parametrize(
    ("disks", "nics", "seed"), list(itertools.product(range(4), range(4), [True, False]))
)
def test_every_shape_is_valid(
    schema: etree.RelaxNG, domain_type: str, disks: int, nics: int, seed: bool
) -> None:
    tree = check(schema, domain(disks, nics, seed=seed, domain_type=domain_type))

    assert tree.get("type") == domain_type
    assert len(tree.findall("devices/disk[@device='disk']")) == disks
    assert len(tree.findall("devices/interface")) == nics
    assert len(tree.findall("devices/disk[@device='cdrom']")) == seed


@pytest.mark.parametrize("arch", ["x86_64", "aarch64"])
@pytest.mark.parametrize("domain_type", ["kvm", "qemu"])
def test_other_architectures_are_valid(schema: etree.RelaxNG, domain_type: str, arch: str) -> None:
    check(schema, domain(arch=arch, domain_type=domain_type))


def test_room_for_more_vcpus(schema: etree.RelaxNG) -> None:
    vcpu = check(schema, domain(vcpu=2, max_vcpu=4)).find("vcpu")
    assert vcpu is not None
    assert (vcpu.text, vcpu.get("current")) == ("4", "2")
    full = check(schema, domain(vcpu=4, max_vcpu=4)).find("vcpu")
    assert full is not None
    assert (full.text, full.get("current")) == ("4", None)


def test_names_with_nasty_characters_stay_what_they_are(schema: etree.RelaxNG) -> None:
    path = "/srv/v dc/a&b<'\">.qcow2"
    disks = (DiskAttachment(path, "qcow2"),)
    spec = replace(domain(), vm_name=NASTY, tenant=NASTY, site=NASTY, disks=disks)

    tree = check(schema, spec)

    metadata = tree.find("metadata")
    assert metadata is not None
    assert metadata[0].get("name") == NASTY
    assert tree.find("devices/disk/source").get("file") == path  # type: ignore[union-attr]


def test_name_that_xml_cannot_hold_is_refused() -> None:
    with pytest.raises(Invalid, match="control character"):
        domain_xml.build(domain(vm_name="a\x00b"))


def test_owner_is_read_back() -> None:
    tree = etree.fromstring(domain_xml.build(domain(site="s<1>")))

    owner = domain_xml.read_owner(etree.tostring(tree.find("metadata")[0], encoding="unicode"))  # type: ignore[index]

    assert (owner.vm_id, owner.site) == (VM_ID, "s<1>")
    assert owner.spec == domain_xml.spec_hash(domain_xml.build(domain(site="s<1>")))


def test_hash_tells_descriptions_apart() -> None:
    base = domain()
    others = [
        replace(base, memory_mib=97),
        replace(base, vcpu=3),
        replace(base, vm_name="other"),
        replace(base, disks=(*base.disks, DiskAttachment("/srv/vdc/more", "raw", 1))),
        replace(base, nics=()),
        replace(base, seed_path=None),
    ]

    hashes = {domain_xml.spec_hash(domain_xml.build(spec)) for spec in [base, *others]}

    assert len(hashes) == len(others) + 1
    assert domain_xml.build(base) == domain_xml.build(domain())


def test_card_is_on_the_port_that_was_made_and_leaves_nothing_to_the_switch() -> None:
    card = etree.fromstring(domain_xml.build(domain())).find("devices/interface")

    assert card is not None
    assert card.get("type") == "ethernet"
    assert card.find("target").get("dev") == nic_device(VM_ID, 0)  # type: ignore[union-attr]
    assert card.find("target").get("managed") == "no"  # type: ignore[union-attr]
    assert card.find("driver/host").get("csum") == "off"  # type: ignore[union-attr]
    assert card.find("driver/guest").get("tso4") == "off"  # type: ignore[union-attr]


def test_disks_on_a_file_server_are_opened_by_qemu_itself_as_root_there(schema: etree.RelaxNG) -> None:
    paths = ["nfs://10.0.0.9/export/vdc/vm-1-disk0.qcow2", "/srv/vdc/vm-1-disk1.qcow2"]
    disks = tuple(DiskAttachment(path, "qcow2", index) for index, path in enumerate(paths))
    seed = "nfs://10.0.0.9/export/vdc/vm-1-seed.iso"
    found = check(schema, replace(domain(), disks=disks, seed_path=seed)).findall("devices/disk")
    assert [domain_xml.path_of(disk) for disk in found] == [*paths, seed]
    assert [disk.get("type") for disk in found] == ["network", "file", "network"]
    assert found[0].find("source").get("name") == "/export/vdc/vm-1-disk0.qcow2"  # type: ignore[union-attr]
    assert found[0].find("source/identity").attrib == {"user": "+0", "group": "+0"}  # type: ignore[union-attr]
    empty = etree.fromstring(domain_xml.seed(seed, empty=True))
    assert domain_xml.path_of(empty) == ""


def test_screen_is_not_open_to_the_network() -> None:
    screen = etree.fromstring(domain_xml.build(domain())).find("devices/graphics")

    assert screen is not None
    assert screen.get("listen") == "127.0.0.1"
