"""Open vSwitch in user space: this kernel needs no module for it, and tagged frames are real 802.1Q."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deployments.programs import run

BRIDGE = "ovsbr0"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"
DATABASE = "etc/openvswitch/conf.db"
SOCKET = "unix:/run/openvswitch/db.sock"
TIMEOUT_S = 10


def services() -> dict[str, list[str]]:
    """Command lines of a place's two daemons, as seen inside the place."""
    run_dir, log_dir = "/run/openvswitch", "/var/log/openvswitch"
    return {
        "ovsdb-server": [
            "/usr/sbin/ovsdb-server",
            "/etc/openvswitch/conf.db",
            f"--remote=p{SOCKET}",
            f"--pidfile={run_dir}/ovsdb-server.pid",
            f"--log-file={log_dir}/ovsdb-server.log",
        ],
        "ovs-vswitchd": [
            "/usr/sbin/ovs-vswitchd",
            SOCKET,
            f"--pidfile={run_dir}/ovs-vswitchd.pid",
            f"--log-file={log_dir}/ovs-vswitchd.log",
        ],
    }


def create_database(place: Path) -> None:
    """A fresh database for a place that boots: ports of machines do not survive a host's reboot."""
    database = place / DATABASE
    database.parent.mkdir(parents=True, exist_ok=True)
    database.unlink(missing_ok=True)
    run(["ovsdb-tool", "create", str(database), SCHEMA])


def ensure_bridge(inside: Sequence[str], *, host: str) -> None:
    """The bridge with its uplink on the trunk; returns when the switch has made it so.

    `inside` is the command prefix that enters the place.
    """
    _vsctl(
        inside,
        [
            "set",
            "Open_vSwitch",
            ".",
            "other_config:n-handler-threads=1",
            "other_config:n-revalidator-threads=1",
        ],
        ["--may-exist", "add-br", BRIDGE],
        ["set", "bridge", BRIDGE, "datapath_type=netdev"],
        ["--may-exist", "add-port", BRIDGE, "eth1"],
        host=host,
    )
    run([*inside, "ip", "link", "set", BRIDGE, "up"], host=host)


def ensure_port(inside: Sequence[str], device: str, *, vlan: int, host: str) -> None:
    """An access port: frames are untagged on `device` and carry `vlan` on the trunk."""
    add = ["--may-exist", "add-port", BRIDGE, device]
    _vsctl(inside, add, ["set", "port", device, f"tag={vlan}"], host=host)


def ensure_port_removed(inside: Sequence[str], device: str, *, host: str) -> None:
    _vsctl(inside, ["--if-exists", "del-port", BRIDGE, device], host=host)


def _vsctl(inside: Sequence[str], *commands: Sequence[str], host: str) -> None:
    """One transaction; returns when the switch has applied it, or fails after TIMEOUT_S."""
    argv = [*inside, "ovs-vsctl", "--retry", f"--timeout={TIMEOUT_S}"]
    for command in commands:
        argv += ["--", *command]
    run(argv, timeout_s=TIMEOUT_S + 5, host=host)
