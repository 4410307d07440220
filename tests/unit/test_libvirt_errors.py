"""What each kind of libvirt error means to us, and what a call under a deadline does."""

from __future__ import annotations

import errno
import threading
import time

import libvirt
import pytest

from drivers.deadline import within
from drivers.hypervisor.libvirt import translate
from vdc.errors import Busy, DriverFailure, HostUnreachable, InvalidState, NotFound, TimedOut, Unsupported


def failed(code: int, origin: int = libvirt.VIR_FROM_QEMU, number: int = -1) -> libvirt.libvirtError:
    error = libvirt.libvirtError("x")
    error.err = (code, origin, "it broke.", libvirt.VIR_ERR_ERROR, "", "", "", number, -1)
    return error


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (failed(libvirt.VIR_ERR_NO_DOMAIN), NotFound),
        (failed(libvirt.VIR_ERR_OPERATION_INVALID), InvalidState),
        (failed(libvirt.VIR_ERR_OPERATION_TIMEOUT), Busy),
        (failed(libvirt.VIR_ERR_RESOURCE_BUSY), Busy),
        (failed(libvirt.VIR_ERR_SYSTEM_ERROR, number=errno.EBUSY), Busy),
        (failed(libvirt.VIR_ERR_NO_SUPPORT), Unsupported),
        (failed(libvirt.VIR_ERR_RPC), HostUnreachable),
        (failed(libvirt.VIR_ERR_NO_CONNECT), HostUnreachable),
        (failed(libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_FROM_RPC), HostUnreachable),
        (failed(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_RPC), HostUnreachable),
        (failed(libvirt.VIR_ERR_INTERNAL_ERROR), DriverFailure),
        (failed(libvirt.VIR_ERR_CONFIG_UNSUPPORTED), DriverFailure),
    ],
)
def test_code_decides(error: libvirt.libvirtError, meaning: type[Exception]) -> None:
    translated = translate(error, "h1", "starting domain vm-1")

    assert type(translated) is meaning
    assert "h1" in str(translated)
    assert "starting domain vm-1" in str(translated)
    assert "it broke" in str(translated)


def test_failure_carries_host_and_reason() -> None:
    translated = translate(failed(libvirt.VIR_ERR_INTERNAL_ERROR), "h1", "starting domain vm-1")

    assert isinstance(translated, DriverFailure)
    assert (translated.host, translated.stderr) == ("h1", "it broke")


def test_call_within_its_deadline() -> None:
    assert within(5, lambda: 7, "counting") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0, "dividing")


def test_call_beyond_its_deadline_is_left_alone() -> None:
    released = threading.Event()
    started = time.monotonic()

    with pytest.raises(TimedOut, match=r"waiting did not return within 0.1 s"):
        within(0.1, lambda: released.wait(30), "waiting")

    assert time.monotonic() - started < 5
    released.set()
