"""What the lab needs of the machine, and how it waits for things."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deployments.programs import tail
from vdc.errors import DriverFailure, Refused

PACKAGES: Mapping[str, str] = {
    "curl": "curl",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "libvirtd": "libvirt-daemon-system",
    "nsenter": "util-linux",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-vswitchd": "openvswitch-switch",
    "ovsdb-server": "openvswitch-switch",
    "ovsdb-tool": "openvswitch-switch",
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "unshare": "util-linux",
}
"""Program -> Debian package."""


def require_root() -> None:
    if os.geteuid() != 0:
        raise Refused("The lab lives in network namespaces and mounts, and needs root: run this as root.")


def wait_until(
    ready: Callable[[], bool],
    what: str,
    *,
    timeout_s: float,
    logs: Sequence[Path] = (),
    host: str = "",
    interval_s: float = 0.02,
) -> None:
    """Wait for a condition. Raises DriverFailure saying what was waited for, with the end of the logs."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            ends = "".join(f"\nLast lines of {log}:\n{_log_tail(log)}" for log in logs)
            raise DriverFailure(f"{what}: not so after {timeout_s:g} s.{ends}", host=host, stderr=ends)
        time.sleep(interval_s)


def _log_tail(log: Path) -> str:
    return tail(log.read_bytes()) or "(empty)" if log.exists() else "(no such file)"
