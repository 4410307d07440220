"""What is true of a migration between two hosts: read from libvirt on both, decided here, done in libvirt.py.

A migration is peer to peer: the source's libvirt carries it out and goes on when its client is gone. So the
truth is not what a call returned, but where the domain runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import libvirt

from drivers.hypervisor.domain_xml import device_of
from vdc.errors import Invalid
from vdc.model import HostRef, MigrationResult, MigrationTuning

FLAGS = (
    libvirt.VIR_MIGRATE_LIVE
    | libvirt.VIR_MIGRATE_PEER2PEER
    | libvirt.VIR_MIGRATE_PERSIST_DEST
    | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE
    # libvirt calls a disk unsafe unless it knows the file system for a cluster's. Ours are opened with
    # cache=none, and were seen on the destination under the same path.
    | libvirt.VIR_MIGRATE_UNSAFE
)

TRIES = 10
"""How often a migration is begun whose refusal is hidden."""

_COMPLETED = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED

_HANDED_OVER = (libvirt.VIR_DOMAIN_PAUSED_MIGRATION, libvirt.VIR_DOMAIN_PAUSED_STARTING_UP)
"""Why libvirt itself pauses a domain while another host takes it over."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a domain stands on one host.

    `running`: it has a guest of ours, be it paused by somebody. `held`: libvirt holds it paused for a
    migration, as the source's guest or the destination's copy. Neither: it is only defined. `busy`: a
    migration is under way.
    """

    running: bool = False
    held: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which host has the machine, and what has to be done so that no other has."""

    moved: bool
    remove: bool = False
    """Remove the copy on the host that does not have the machine."""
    resume: bool = False
    """The source's guest is held: let it run on."""


def look(conn: libvirt.virConnect, name: str) -> Standing | None:
    """How the domain stands there; None where there is none. Raises libvirtError."""
    try:
        domain = conn.lookupByName(name)
        state, reason = domain.state()
        active = domain.isActive() == 1
        busy = active and _busy(domain)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    held = active and state == libvirt.VIR_DOMAIN_PAUSED and reason in _HANDED_OVER
    return Standing(running=active and not held, held=held, busy=busy)


def _busy(domain: libvirt.virDomain) -> bool:
    try:
        return bool(domain.jobInfo()[0] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as error:
        # The destination of a migration does not tell how far it is; a domain may end while we ask.
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return False
        raise


def start(
    domain: libvirt.virDomain,
    uri: str,
    destination: HostRef,
    tuning: MigrationTuning,
    copy: Sequence[int] = (),
) -> None:
    """Have the source's libvirt migrate the domain; returns when it has. Raises libvirtError.

    Disks with an index in `copy` are there on the destination, on the same image: what is above that is
    sent ahead of the memory, and kept in step until the guest goes over.
    """
    params: dict[str, str | int | list[str]] = {}
    flags = FLAGS | (libvirt.VIR_MIGRATE_AUTO_CONVERGE * tuning.auto_converge)
    if copy:
        params[libvirt.VIR_MIGRATE_PARAM_MIGRATE_DISKS] = [device_of(index) for index in copy]
        flags |= libvirt.VIR_MIGRATE_NON_SHARED_INC
    if data := data_uri(destination):
        params[libvirt.VIR_MIGRATE_PARAM_URI] = data
    if tuning.bandwidth_mib_s is not None:
        params[libvirt.VIR_MIGRATE_PARAM_BANDWIDTH] = tuning.bandwidth_mib_s
    if tuning.max_downtime_ms is not None:
        # No parameter of the migration itself. QEMU keeps it should the machine stay here.
        domain.migrateSetMaxDowntime(tuning.max_downtime_ms)
    domain.migrateToURI3(uri, params, flags)


def hides_what_the_peer_said(error: libvirt.libvirtError, conn: libvirt.virConnect) -> bool:
    """Whether `error` is only the end of the source's connection to the peer. `conn`: ours to the source.

    libvirt 9.0 closes that connection after a refusal, and tells its end in place of the refusal if the peer
    is the quicker one to close (seen of a third of the refusals on a busy machine).
    """
    return bool(error.get_error_domain() == libvirt.VIR_FROM_RPC and conn.isAlive())


def judge(here: Standing | None, there: Standing | None) -> Verdict | None:
    """Which of source and destination has the machine, once nothing is under way. Pure.

    None where guests run on both: that is for a person to decide.
    """
    if there is not None and there.running:
        if here is not None and here.running:
            return None
        return Verdict(moved=True, remove=here is not None)
    if here is None:
        # Nothing was left to come back to: the copy, if there is one, is the machine.
        return Verdict(moved=there is not None)
    # A copy that never ran holds nothing that the source has not.
    return Verdict(moved=False, remove=there is not None, resume=here.held)


def read_result(conn: libvirt.virConnect, name: str) -> MigrationResult:
    """What libvirt on the destination counted; it forgets that when the domain or the daemon ends."""
    try:
        stats = conn.lookupByName(name).jobStats(_COMPLETED)
    except libvirt.libvirtError:
        stats = {}
    return MigrationResult(_seconds(stats.get("time_elapsed")), _seconds(stats.get("downtime")))


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def peer_uri(destination: HostRef, scheme: str) -> str:
    """The URI by which the source's libvirt reaches the destination's.

    A `migration_address` that is a URI is taken as it stands. Raises Invalid where there is nothing to go by.
    """
    if "://" in destination.migration_address:
        return destination.migration_address
    parts = urlsplit(destination.uri)
    address = destination.migration_address or parts.hostname or ""
    if not address:
        raise Invalid(f"Host {destination.name} has no migration address: other hosts cannot reach it.")
    user = f"{parts.username}@" if scheme.endswith("ssh") and parts.username else ""
    return f"{scheme}://{user}{_bracketed(address)}/system"


def data_uri(destination: HostRef) -> str:
    """Where QEMU sends the memory: the migration address; empty: as the destination's libvirt proposes."""
    address = destination.migration_address
    host = urlsplit(address).hostname or "" if "://" in address else address
    return f"tcp://{_bracketed(host)}" if host else ""


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address
