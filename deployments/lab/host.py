"""A hypervisor host: a place with sshd, Open vSwitch and libvirtd."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from deployments.lab import host_files, links, openvswitch, place
from deployments.lab.layout import Layout
from deployments.lab.processes import kill_all, read_pid, select_namespace
from deployments.lab.system import wait_until

READY_TIMEOUT_S = 15.0
LIBVIRT_SOCKET = "run/libvirt/libvirt-sock"


def services(layout: Layout) -> dict[str, list[str]]:
    # It looks for emulators there.
    path = f"/{Path(host_files.EMULATOR).parent}:{layout.environment['PATH']}"
    return {
        **openvswitch.services(),
        "sshd": ["/usr/sbin/sshd", "-D", "-f", "/etc/ssh/sshd_config", "-E", "/var/log/sshd.log"],
        "libvirtd": ["/usr/bin/env", f"PATH={path}", "/usr/sbin/libvirtd", "--listen"],
    }


def ensure_host(layout: Layout, host: str, hosts: Sequence[str], *, fast_floor: bool) -> bool:
    """Make the host run and serve; False if it did so already. Expects the keys of all `hosts`."""
    links.ensure_host_links(layout, host)
    if not place.is_running(layout, host):
        openvswitch.create_database(layout.place(host))
    if host_files.write_settings(layout, host, hosts, fast_floor=fast_floor):
        place.stop_service(layout, host, "libvirtd")
    started = place.ensure_running(layout, host, services(layout))
    openvswitch.ensure_bridge(place.enter(layout, host), host=host)
    wait_until(
        lambda: libvirt_answers(layout, host),
        f"libvirtd of {host} accepts connections",
        timeout_s=READY_TIMEOUT_S,
        logs=[layout.place(host) / "var/log/libvirt/libvirtd.log", layout.place(host) / "libvirtd.out"],
        host=host,
    )
    return started


def libvirt_answers(layout: Layout, host: str) -> bool:
    pid = read_pid(layout.place(host) / "reaper.pid")
    if pid is None:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(Path(f"/proc/{pid}/root") / LIBVIRT_SOCKET))
        except OSError:
            return False
    return True


def cut_power(layout: Layout, host: str) -> None:
    """Everything that runs on the host dies at once and its links go; its disks stay as they are."""
    links.cut_host_links(layout, host)  # at once: a namespace that was removed lingers in the kernel
    name = layout.namespace(host)
    reaper = read_pid(layout.place(host) / "reaper.pid")
    kill_all(select_namespace(name), last=[reaper] if reaper else [])
    links.remove_namespace(name)
