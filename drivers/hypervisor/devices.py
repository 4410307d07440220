"""Plugging disks, drives and network cards into libvirt domains that run, and taking them out again.

A disk or a drive is known by its file, a card by its MAC: that is looked for in the domain as it runs,
whatever a call returned. A guest has to let go of what is taken out. libvirt asks it, and returns whether it
did so or not.
"""

from __future__ import annotations

import json
import logging
import re
import time

import libvirt
import libvirt_qemu
from lxml import etree

from drivers.hypervisor import domain_xml
from drivers.hypervisor.power import Caller
from vdc.model import Attachment, CdromAttachment, DeviceAttachment, DevicesSeen, DomainSpec

log = logging.getLogger(__name__)

WATCH_S = 0.2
ASK_AGAIN_S = 5.0
"""A guest that was still booting has not heard the first question."""
TRAY_TRIES = 5
TRAY_CLOSED = re.compile(r"Tray of (the device|device '\S*') is not open")
"""QEMU's words at putting a disc in, and at taking one out."""

_STILL_ASKED = (
    libvirt.VIR_ERR_OPERATION_TIMEOUT,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_DEVICE_MISSING,
)


def read(domain: libvirt.virDomain) -> DevicesSeen:
    """Raises libvirtError."""
    devices = _devices(domain)
    files = {path for disk in devices.findall("disk") if (path := domain_xml.path_of(disk))}
    macs = {str(mac.get("address")).lower() for mac in devices.findall("interface/mac")}
    return DevicesSeen(frozenset(files), frozenset(macs))


def plug(conn: libvirt.virConnect, name: str, device: DeviceAttachment) -> bool:
    """Raises libvirtError."""
    domain = conn.lookupByName(name)
    if not domain.isActive() or _find(domain, device) is not None:
        return False
    if isinstance(device, CdromAttachment) and _devices(domain).find("controller[@type='scsi']") is None:
        arch = etree.fromstring(domain.XMLDesc()).find("os/type").get("arch", "")  # type: ignore[union-attr]
        domain.attachDeviceFlags(domain_xml.controller(arch), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    domain.attachDeviceFlags(domain_xml.device(device), libvirt.VIR_DOMAIN_AFFECT_LIVE)
    return True


def unplug(call: Caller, name: str, device: DeviceAttachment, timeout_s: float) -> bool:
    """Ask the guest to let go until it does, or the time is over; whether the domain is without it."""

    def ask(conn: libvirt.virConnect) -> bool:
        domain = _lookup(conn, name)
        found = None if domain is None or not domain.isActive() else _find(domain, device)
        if domain is None or found is None:
            return True
        try:
            # Waits five seconds for the guest.
            domain.detachDeviceFlags(_text(found), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            # It was asked before, or has just let go.
            if error.get_error_code() not in _STILL_ASKED:
                raise
            log.info("The guest of %s does not let go yet: %s", name, error)
        return _find(domain, device) is None

    def look(conn: libvirt.virConnect) -> bool:
        domain = _lookup(conn, name)
        return domain is None or not domain.isActive() or _find(domain, device) is None

    deadline = time.monotonic() + timeout_s
    while not call(f"taking a device out of {name}", ask):
        again = time.monotonic() + ASK_AGAIN_S
        while time.monotonic() < min(again, deadline):
            if call(f"looking at the devices of {name}", look):
                return True
            time.sleep(WATCH_S)
        if time.monotonic() >= deadline:
            return False
    return True


def refresh_seed(conn: libvirt.virConnect, spec: DomainSpec) -> None:
    """Take the seed out of its drive and put it in again: the file by that name may be another one now.

    Raises libvirtError.
    """
    domain = conn.lookupByName(spec.name)
    if not spec.seed_path or not domain.isActive():
        return
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_DEVICE_MODIFY_FORCE
    for tries_left in reversed(range(TRAY_TRIES)):
        try:
            domain.updateDeviceFlags(domain_xml.seed(spec.seed_path, empty=True), flags)
            domain.updateDeviceFlags(domain_xml.seed(spec.seed_path), flags)
            return
        except libvirt.libvirtError as error:
            if not tries_left or not TRAY_CLOSED.search(str(error)):
                raise
            _open_tray(domain)


def _open_tray(domain: libvirt.virDomain) -> None:
    """Open the seed's drive where it is shut while libvirt holds it for open, and so does not open it.

    A guest that starts resets its drives: QEMU shuts their trays at that, and tells nobody (hw/ide/core.c).
    """
    drive = next(d for d in _devices(domain).findall("disk") if domain_xml.is_seed(d))
    alias = drive.find("alias").get("name")  # type: ignore[union-attr]
    question = {"execute": "blockdev-open-tray", "arguments": {"id": alias, "force": True}}
    answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps(question), 0)
    log.info("The tray of %s was opened anew: %s", domain.name(), answer.strip())


def _devices(domain: libvirt.virDomain) -> etree._Element:
    devices = etree.fromstring(domain.XMLDesc()).find("devices")
    assert devices is not None, "every domain has devices"
    return devices


def _find(domain: libvirt.virDomain, device: DeviceAttachment) -> etree._Element | None:
    devices = _devices(domain)
    if isinstance(device, Attachment):
        cards = devices.findall("interface")
        of_mac = (c for c in cards if c.find("mac").get("address", "").lower() == device.mac)  # type: ignore[union-attr]
        return next(of_mac, None)
    return next((d for d in devices.findall("disk") if domain_xml.path_of(d) == device.path), None)


def _lookup(conn: libvirt.virConnect, name: str) -> libvirt.virDomain | None:
    try:
        return conn.lookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _text(xml: etree._Element) -> str:
    return str(etree.tostring(xml, encoding="unicode"))
