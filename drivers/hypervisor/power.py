"""Switching a libvirt domain off and on again, and asking its guest to do so itself.

A guest is asked by the agent where one answers, else by the power button (ACPI); libvirt chooses. It may
take its time, or not listen at all, so that asking is apart from doing: between the two the caller looks
whether it may still act.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import libvirt
from lxml import etree

from vdc.errors import DriverFailure, TimedOut
from vdc.model import VncEndpoint

T = TypeVar("T")

WATCH_S = 0.2
"""How often a guest that was asked is looked at."""
STALL_S = 2.0
"""How long a guest that had no room for what it writes is watched when it is resumed."""
ABORT_S = 30.0
"""How long the saving of memory may take to end once it was aborted."""
ASK_AGAIN_S = 10.0
"""A guest that still boots does not hear the button."""

_ON = (
    libvirt.VIR_DOMAIN_RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN,
    libvirt.VIR_DOMAIN_PMSUSPENDED,
)
_PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED)


class Caller(Protocol):
    """Runs libvirt calls on a host's connection, under a deadline, errors translated."""

    def __call__(self, what: str, act: Callable[[libvirt.virConnect], T]) -> T: ...


def _state(call: Caller, name: str) -> int:
    return call(f"looking at domain {name}", lambda conn: int(conn.lookupByName(name).state()[0]))


def ensure_shut_down(call: Caller, name: str, timeout_s: float) -> bool:
    """Ask the guest to shut down and wait; whether the domain is off."""
    deadline = time.monotonic() + timeout_s
    ask_at = 0.0

    def ask(conn: libvirt.virConnect) -> None:
        # It went off meanwhile, or the agent did not answer: what it is, is looked at anyway.
        with _passing(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_AGENT_UNRESPONSIVE):
            conn.lookupByName(name).shutdownFlags(0)

    while (state := _state(call, name)) in _ON:
        now = time.monotonic()
        # Who stands still cannot hear.
        if now >= deadline or state in _PAUSED:
            return False
        if now >= ask_at:
            ask_at = now + ASK_AGAIN_S
            call(f"asking the guest of {name} to shut down", ask)
        time.sleep(min(WATCH_S, max(0.0, deadline - now)))
    return True


def ensure_stopped(conn: libvirt.virConnect, name: str) -> bool:
    """Power off hard, and forget memory that was kept."""
    domain = conn.lookupByName(name)
    changed = False
    if domain.state()[0] in _ON:
        with _passing(libvirt.VIR_ERR_OPERATION_INVALID):  # it went off just now
            domain.destroy()
            changed = True
    if domain.hasManagedSaveImage(0):
        domain.managedSaveRemove(0)
        changed = True
    return changed


def is_stalled(state: Sequence[int]) -> bool:
    """Whether QEMU itself has paused the domain, as there was no room for what its guest writes."""
    return tuple(state) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_IOERROR)


def resume(domain: libvirt.virDomain, host: str) -> None:
    """Let a paused domain go on. Raises DriverFailure where there still is no room for what it writes."""
    stalled = is_stalled(domain.state())
    domain.resume()
    # QEMU tries at once to write what it could not write before.
    deadline = time.monotonic() + STALL_S
    while stalled and time.monotonic() < deadline:
        if is_stalled(domain.state()):
            raise DriverFailure(
                f"{host}: domain {domain.name()} stands still again: there is no room for what it writes. "
                "Make room in its datastore, then resume it.",
                host=host,
            )
        time.sleep(WATCH_S / 4)


def ensure_paused(conn: libvirt.virConnect, name: str, host: str) -> bool:
    domain = conn.lookupByName(name)
    state = domain.state()[0]
    if state in _PAUSED:
        return False
    if state not in _ON:
        raise not_running(name, host, "paused")
    domain.suspend()
    return True


def reset(conn: libvirt.virConnect, name: str, host: str) -> None:
    domain = conn.lookupByName(name)
    if domain.state()[0] not in _ON:
        raise not_running(name, host, "reset")
    domain.reset(0)


def not_running(name: str, host: str, what: str) -> DriverFailure:
    return DriverFailure(f"{host}: domain {name} does not run there: it cannot be {what}.", host=host)


def reboot(call: Caller, name: str, host: str, timeout_s: float) -> bool:
    """Ask the guest to reboot and wait for libvirt's event that it did."""
    rebooted = threading.Event()

    def watch(conn: libvirt.virConnect) -> tuple[libvirt.virConnect, int]:
        domain = conn.lookupByName(name)
        if domain.state()[0] not in _ON:
            raise not_running(name, host, "rebooted")
        event = libvirt.VIR_DOMAIN_EVENT_ID_REBOOT
        return conn, conn.domainEventRegisterAny(domain, event, lambda *_: rebooted.set(), None)

    def ask(conn: libvirt.virConnect) -> None:
        with _passing(libvirt.VIR_ERR_AGENT_UNRESPONSIVE):  # it does not listen, then
            conn.lookupByName(name).reboot(0)

    conn, handle = call(f"watching domain {name}", watch)
    try:
        call(f"asking the guest of {name} to reboot", ask)
        return rebooted.wait(timeout_s)
    finally:
        with contextlib.suppress(libvirt.libvirtError):  # the connection may have broken: then it is gone
            conn.domainEventDeregisterAny(handle)


def ensure_suspended(
    call: Caller, open_connection: Callable[[], libvirt.virConnect], name: str, host: str, timeout_s: float
) -> bool:
    """Save the memory beside the domain and power off. At the deadline it is aborted and runs on."""

    def look(conn: libvirt.virConnect) -> tuple[bool, bool]:
        domain = conn.lookupByName(name)
        return domain.state()[0] in _ON, bool(domain.hasManagedSaveImage(0))

    on, saved = call(f"looking at domain {name}", look)
    if not on and saved:
        return False
    if not on:
        raise not_running(name, host, "suspended")
    failures: list[libvirt.libvirtError] = []
    # A connection of its own, so that looking and aborting do not wait for the end of the saving.
    conn = open_connection()

    def save() -> None:
        try:
            # RUNNING: also one that was paused goes on when it is resumed.
            conn.lookupByName(name).managedSave(libvirt.VIR_DOMAIN_SAVE_RUNNING)
        except libvirt.libvirtError as error:
            failures.append(error)
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                conn.close()

    thread = threading.Thread(target=save, name=f"suspending {name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    aborted = thread.is_alive()
    if aborted:

        def abort(c: libvirt.virConnect) -> None:
            with _passing(libvirt.VIR_ERR_OPERATION_INVALID):  # it is saved by now, or not begun
                c.lookupByName(name).abortJob()

        call(f"aborting the suspension of {name}", abort)
        thread.join(ABORT_S)
    if thread.is_alive():
        raise TimedOut(f"{host}: suspending {name} did not end, not even when it was aborted.")
    if aborted and failures:
        raise DriverFailure(
            f"{host}: saving the memory of {name} took longer than {timeout_s:g} s and was aborted "
            "(setting suspend_timeout_s); it runs on.",
            host=host,
            command="managedSave",
            stderr=str(failures[0]),
        )
    if failures:
        call(f"suspending {name}", _raising(failures[0]))
    return True


def _raising(error: libvirt.libvirtError) -> Callable[[libvirt.virConnect], None]:
    """For the caller to translate what happened in another thread."""

    def fail(_conn: libvirt.virConnect) -> None:
        raise error

    return fail


def read_vnc(conn: libvirt.virConnect, name: str, host: str) -> VncEndpoint:
    """Where the screen listens, seen from the host."""
    description = etree.fromstring(conn.lookupByName(name).XMLDesc(0))
    screen: Any = description.find("devices/graphics[@type='vnc']")
    port = int(screen.get("port", "-1")) if screen is not None else -1
    if port < 0:
        raise DriverFailure(f"{host}: domain {name} has no screen: it does not run.", host=host)
    return VncEndpoint(screen.get("listen") or "127.0.0.1", port)


@contextlib.contextmanager
def _passing(*codes: int) -> Iterator[None]:
    """Go on where libvirt answers with one of these."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise
