"""A place is a network, mount and UTS namespace with daemons in it: a host, or `outside`.

Its first process (reaper.py) gives it a private view of every directory that daemons write to, so that the
machine's own stay untouched.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deployments.lab.layout import Layout
from deployments.lab.processes import NAMESPACES, kill_all, read_pid, select_namespace
from deployments.lab.system import wait_until
from deployments.programs import run
from vdc.errors import InvalidState

START_TIMEOUT_S = 15.0

PRIVATE_DIRECTORIES = (
    "etc/ssh",
    "etc/libvirt",
    "etc/openvswitch",
    "root",
    "var/lib/libvirt",
    "var/lib/openvswitch",
    "var/cache/libvirt",
    "var/log",
)
"""Kept in the place's state directory: they survive a crash of the host, as a disk would."""

TEMPORARY_DIRECTORIES = ("/run", "/srv", "/tmp", "/var/tmp")  # noqa: S108 - private to the place
RUN_DIRECTORIES = ("/run/sshd", "/run/openvswitch", "/run/libvirt", "/run/lock")
LOG_DIRECTORIES = ("var/log/libvirt/qemu", "var/log/openvswitch")


def prepare(layout: Layout, name: str) -> Path:
    """Make the place's state directory; returns it."""
    directory = layout.place(name)
    for private in (*PRIVATE_DIRECTORIES, *LOG_DIRECTORIES, "local"):
        (directory / private).mkdir(parents=True, exist_ok=True)
    (directory / "root").chmod(0o700)
    return directory


def ensure_running(layout: Layout, name: str, services: Mapping[str, Sequence[str]]) -> bool:
    """Start the place, or those of its services that are missing; False if all ran already.

    Returns before the services are ready to serve. Raises DriverFailure with what the first process said.
    """
    directory = layout.place(name)
    pid = read_pid(directory / "reaper.pid")
    if pid is None:
        _boot(layout, name, services)
        return True
    missing = missing_services(layout, name, services)
    if missing:
        os.kill(pid, signal.SIGHUP)
        wait_until(
            lambda: not missing_services(layout, name, services),
            f"Services {', '.join(missing)} of {name} run again",
            timeout_s=START_TIMEOUT_S,
            logs=[directory / f"{missing[0]}.out"],
            host=name,
        )
    return bool(missing)


def is_running(layout: Layout, name: str) -> bool:
    return read_pid(layout.place(name) / "reaper.pid") is not None


def missing_services(layout: Layout, name: str, services: Mapping[str, object]) -> list[str]:
    directory = layout.place(name)
    return [service for service in services if read_pid(directory / f"{service}.pid") is None]


def stop_service(layout: Layout, name: str, service: str) -> bool:
    """Kill one daemon and wait until it is buried; False if it did not run. `up` starts it again."""
    pid = read_pid(layout.place(name) / f"{service}.pid")
    if pid is None:
        return False
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: not Path(f"/proc/{pid}").exists(),
        f"{service} of {name} ended",
        timeout_s=START_TIMEOUT_S,
        host=name,
    )
    return True


def enter(layout: Layout, name: str) -> list[str]:
    """Command prefix that runs a program inside the place. Raises InvalidState if it is down."""
    pid = read_pid(layout.place(name) / "reaper.pid")
    if pid is None:
        raise InvalidState(f"{name} of lab {layout.lab_id} is down: start it with `vdc lab up`.")
    return ["nsenter", f"--target={pid}", "--mount", "--net", "--uts", "--"]


def _boot(layout: Layout, name: str, services: Mapping[str, Sequence[str]]) -> None:
    directory = layout.place(name)
    kill_all(
        select_namespace(layout.namespace(name))
    )  # daemons and machines of a host whose first process died
    for stale in directory.glob("*.pid"):
        if stale.name != "listener.pid":
            stale.unlink()
    spec = {
        "hostname": name,
        "mounts": _mounts(directory),
        "directories": RUN_DIRECTORIES,
        "services": services,
    }
    (directory / "spec.json").write_text(json.dumps(spec, indent=1))
    program = str(Path(__file__).with_name("reaper.py"))
    environment = [f"{key}={value}" for key, value in layout.environment.items()]
    run(
        [
            *("nsenter", f"--net={NAMESPACES / layout.namespace(name)}", "--"),
            *("unshare", "--mount", "--uts", "--propagation", "slave", "--"),
            *("env", "--ignore-environment", *environment),
            *(sys.executable, "-I", "-S", program, str(directory / "spec.json")),
        ],
        timeout_s=START_TIMEOUT_S,
        host=name,
    )


def _mounts(directory: Path) -> list[tuple[str, str, str]]:
    """Binds come before the tmpfs that may hide where they come from (a VDC_HOME in /tmp)."""
    mounts = [("bind", private, f"/{private}") for private in PRIVATE_DIRECTORIES]
    mounts.append(("bind", "etc/hosts", "/etc/hosts"))
    mounts.extend(
        ("tmpfs", "mode=1777" if "tmp" in target else "mode=755", target) for target in TEMPORARY_DIRECTORIES
    )
    mounts.append(("bind", "../datastore", "/srv/vdc/shared"))
    mounts.append(("bind", "local", "/srv/vdc/local"))
    return mounts
