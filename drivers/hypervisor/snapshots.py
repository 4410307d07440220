"""States of a machine kept inside its qcow2 files ("internal snapshots"), named by their ids.

The files are the only truth. libvirt describes snapshots too, beside the domain, and loses that with it. So
it keeps none: a description is made for as long as it takes to go back to a memory state, and dropped.

- With memory: libvirt, which has QEMU write memory and disks (`savevm`).
- Disks alone while the guest runs: libvirt cannot, so QEMU is told through it, all disks in one transaction.
- Disks alone while it is off: `qemu-img` where the files are; QEMU's image lock keeps it off files in use.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import libvirt
import libvirt_qemu
from lxml import etree

from drivers.ssh import Ssh
from vdc.errors import Busy, DriverFailure
from vdc.model import SnapshotSeen, SnapshotSpec

log = logging.getLogger(__name__)

MIB = 2**20

AGENT_TIMEOUT_S = 5
"""How long the guest's agent may take to freeze its file systems; without an answer they are not frozen."""

_INFO = """
set -eu
printf '['; separator=
for file; do
  printf '%s' "$separator"; separator=,
  case $file in
    nfs://*)
      if told=$(qemu-img info -U --output=json -- "$file" 2>&1); then printf %s "$told"
      else case $told in *NFS3ERR_NOENT*) echo null ;; *) echo "$told" >&2; exit 1 ;; esac
      fi ;;
    *) if [ -e "$file" ]; then qemu-img info -U --output=json -- "$file"; else echo null; fi ;;
  esac
done
printf ']'
"""

_ACT = """
set -eu
act=$1 name=$2; shift 2
for file; do qemu-img snapshot "$act" "$name" -- "$file"; done
"""

Kept = dict[str, dict[str, int]]
"""Disk (QEMU's node, or path) -> name of each state in it -> bytes of memory kept with it."""


def read_running(domain: libvirt.virDomain, host: str) -> Kept:
    """States in the disks of a domain that runs or is paused, by QEMU's node.

    Raises DriverFailure for a disk that can hold none.
    """
    kept: Kept = {}
    for block in _ask(domain, host, "query-block"):
        medium = block.get("inserted")
        if not medium or medium["ro"]:
            continue
        if medium["drv"] != "qcow2":
            raise DriverFailure(
                f"{host}: {domain.name()} has a disk in {medium['drv']} format, which holds no snapshots.",
                host=host,
            )
        kept[medium["node-name"]] = _sizes(medium["image"])
    return kept


def read_files(ssh: Ssh, paths: Sequence[str]) -> Kept:
    """States in files; those that are not there are left out."""
    told = ssh.run(["sh", "-c", _INFO, "sh", *paths], what="reading snapshots")
    found = zip(paths, json.loads(told), strict=True)
    return {path: _sizes(image) for path, image in found if image is not None}


def _sizes(image: dict[str, Any]) -> dict[str, int]:
    return {s["name"]: s["vm-state-size"] for s in image.get("snapshots", [])}


def seen(kept: Kept) -> list[SnapshotSeen]:
    """States by name, however many of the disks have them. Pure."""
    sizes: dict[str, list[int]] = {}
    for of_disk in kept.values():
        for name, size in of_disk.items():
            sizes.setdefault(name, []).append(size)
    return [
        SnapshotSeen(
            snapshot_id=name,
            kind="memory" if any(found) else "disk",
            size_mib=sum(found) // MIB,
            whole=len(found) == len(kept),
        )
        for name, found in sorted(sizes.items())
    ]


def take_memory(domain: libvirt.virDomain, snapshot: SnapshotSpec) -> None:
    """Keep memory and disks of a guest that runs; it stands still meanwhile. Raises libvirtError."""
    xml = _description(domain, snapshot)
    domain.snapshotCreateXML(_text(xml), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)


def take_disks(domain: libvirt.virDomain, host: str, nodes: Sequence[str], snapshot: SnapshotSpec) -> None:
    """Keep all disks of a guest that runs as they are at one moment, its file systems frozen if it can."""
    actions = [
        {"type": "blockdev-snapshot-internal-sync", "data": {"device": node, "name": snapshot.snapshot_id}}
        for node in nodes
    ]
    with _frozen(domain):
        _ask(domain, host, "transaction", actions=actions)


def remove_running(domain: libvirt.virDomain, host: str, nodes: Sequence[str], name: str) -> None:
    for node in nodes:
        _ask(domain, host, "blockdev-snapshot-delete-internal-sync", device=node, name=name)


def work_on_files(
    ssh: Ssh, act: str, name: str, paths: Sequence[str], timeout_s: float | None = None
) -> None:
    """`act` is qemu-img's: -c make, -d delete, -a go back. Raises Busy where a guest has a file open."""
    what = {"-c": "making", "-d": "removing", "-a": "going back to"}[act]
    try:
        ssh.run(
            ["sh", "-c", _ACT, "sh", act, name, *paths], timeout_s=timeout_s, what=f"{what} snapshot {name}"
        )
    except DriverFailure as error:
        if '"write" lock' in error.stderr:
            raise Busy(str(error)) from error
        raise


def go_back_with_memory(domain: libvirt.virDomain, snapshot: SnapshotSpec) -> None:
    """Load memory and disks; the guest runs on from there, whatever it was doing. Raises libvirtError."""
    xml = _description(domain, snapshot)
    _add(xml, "state", "running")
    # libvirt wants to know one; nobody reads it.
    _add(xml, "creationTime", str(int(time.time())))
    # As it is described now: what the inventory says of it is what runs.
    xml.append(
        etree.fromstring(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE))
    )
    described = domain.snapshotCreateXML(_text(xml), libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE)
    try:
        domain.revertToSnapshot(described, libvirt.VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING)
    finally:
        drop_descriptions(domain)


def drop_descriptions(domain: libvirt.virDomain) -> None:
    """Have libvirt forget what it knows of snapshots: with it, it would refuse to migrate the domain."""
    for described in domain.listAllSnapshots():
        described.delete(libvirt.VIR_DOMAIN_SNAPSHOT_DELETE_METADATA_ONLY)


def thaw(domain: libvirt.virDomain) -> bool:
    """Let the guest's file systems go on; False where no agent answers, which then has frozen nothing either.

    Also for a process that died in between.
    """
    try:
        domain.fsThaw()
    except libvirt.libvirtError as error:
        log.debug("%s was not told to thaw its file systems: %s", domain.name(), error)
        return False
    return True


@contextmanager
def _frozen(domain: libvirt.virDomain) -> Iterator[None]:
    frozen = _freeze(domain)
    try:
        yield
    finally:
        if frozen and not thaw(domain):
            log.warning("%s may stand still: `virsh domfsthaw` on its host thaws it.", domain.name())


def _freeze(domain: libvirt.virDomain) -> bool:
    try:
        domain.agentSetResponseTimeout(AGENT_TIMEOUT_S)
        domain.fsFreeze()
    except libvirt.libvirtError as error:
        log.info("%s is kept without freezing its file systems: %s", domain.name(), error)
        # The answer may only have been too late.
        thaw(domain)
        return False
    finally:
        with suppress(libvirt.libvirtError):
            domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK)
    return True


def _ask(domain: libvirt.virDomain, host: str, command: str, **arguments: object) -> Any:
    """Ask QEMU itself (QMP). Raises libvirtError, or DriverFailure with QEMU's own reason."""
    question: dict[str, object] = {"execute": command}
    if arguments:
        question["arguments"] = arguments
    answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(question), 0))
    if "error" in answer:
        reason = answer["error"]["desc"]
        raise DriverFailure(
            f"{host}: QEMU refused {command} for {domain.name()}: {reason}.",
            host=host,
            command=command,
            stderr=reason,
        )
    return answer["return"]


def _description(domain: libvirt.virDomain, snapshot: SnapshotSpec) -> etree._Element:
    """Memory and all disks that the guest can write to."""
    xml = etree.Element("domainsnapshot")
    _add(xml, "name", snapshot.snapshot_id)
    _add(xml, "memory").set("snapshot", "internal")
    disks = _add(xml, "disks")
    for disk in etree.fromstring(domain.XMLDesc()).findall("devices/disk"):
        kept = disk.get("device") == "disk" and disk.find("readonly") is None
        target = disk.find("target")
        assert target is not None, "libvirt names every disk"
        one = _add(disks, "disk")
        one.set("name", target.get("dev", ""))
        one.set("snapshot", "internal" if kept else "no")
    return xml


def _add(parent: etree._Element, tag: str, text: str | None = None) -> etree._Element:
    element = etree.SubElement(parent, tag)
    element.text = text
    return element


def _text(xml: etree._Element) -> str:
    return str(etree.tostring(xml, encoding="unicode"))
