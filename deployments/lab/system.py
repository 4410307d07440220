"""Programs of the operating system: what the lab needs of them, and how it runs them with a deadline."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vdc.errors import DriverFailure, Refused, TimedOut

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

SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LOG_LINES = 8


def require_root() -> None:
    if os.geteuid() != 0:
        raise Refused("The lab makes network namespaces and mounts: it needs root. Run this command as root.")


def require_programs() -> None:
    missing = sorted(name for name in PACKAGES if shutil.which(name, path=SEARCH_PATH) is None)
    if missing:
        packages = sorted({PACKAGES[name] for name in missing})
        raise Refused(
            f"The lab needs programs that are not installed: {', '.join(missing)}. "
            f"Type: apt-get install {' '.join(packages)}"
        )


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 15.0,
    host: str = "",
    stdin: str | None = None,
    check: bool = True,
) -> str:
    """Run a program and return its standard output.

    Raises DriverFailure if it fails (unless `check` is False) and TimedOut if it misses its deadline.
    """
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"`{shlex.join(argv)}` did not return within {timeout_s:g} s.") from error
    if check and done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or "no message"
        raise DriverFailure(
            f"`{shlex.join(argv)}` failed with exit code {done.returncode}: {said}",
            host=host,
            command=shlex.join(argv),
            stderr=done.stderr,
        )
    return done.stdout


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
            tails = "".join(f"\nLast lines of {log}:\n{log_tail(log)}" for log in logs)
            raise DriverFailure(f"{what}: not so after {timeout_s:g} s.{tails}", host=host, stderr=tails)
        time.sleep(interval_s)


def log_tail(log: Path) -> str:
    if not log.exists():
        return "(no such file)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) or "(empty)"
