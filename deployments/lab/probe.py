"""A place to look from: a namespace plugged into one VLAN of the trunk, or into the flat network.

Each network has a namespace of its own, so that networks with the same addresses do not disturb each other.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_interface

from deployments.lab import links, openvswitch, place, registry
from deployments.lab.layout import OUTSIDE, SWITCH, Layout
from deployments.lab.processes import kill_all, select_namespace
from deployments.lab.system import require_root
from vdc.errors import Invalid, TimedOut

LOCK_TIMEOUT_S = 60.0
TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Probe:
    """`vlan` None is the flat network of the hosts' bridge br0."""

    lab_id: str
    vlan: int | None
    namespace: str

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` in the probe's place; needs root."""
        return ["ip", "netns", "exec", self.namespace, *argv]

    def run(self, argv: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Run a command there, whatever its exit code. Raises TimedOut."""
        try:
            return subprocess.run(
                self.command(argv),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"{argv[0]} in {self.namespace} did not return within {timeout_s:g} s.") from error

    def fetch(self, address: str, *, timeout_s: float = 5.0) -> str | None:
        """Body of http://address/, or None if nothing answers in time."""
        curl = ["curl", "--silent", "--fail", "--noproxy", "*", "--max-time", f"{timeout_s:g}"]
        done = self.run([*curl, f"http://{address}/"], timeout_s=timeout_s + TIMEOUT_S)
        return done.stdout if done.returncode == 0 else None


def open_probe(lab_id: str, vlan: int | None, address: str) -> Probe:
    """Make a probe with an address like 10.1.0.250/24 on a VLAN (None: the flat network), or find it there.

    Another address on the same network is added to those it has. Raises Invalid for a value that can never be
    right, InvalidState if the lab is down. `vdc lab down` removes all probes.
    """
    if vlan is not None and not 1 <= vlan <= 4094:
        raise Invalid(f"A VLAN is a number from 1 to 4094, not {vlan}.")
    try:
        cidr = str(ip_interface(address))
    except ValueError as error:
        raise Invalid(f"{address!r} is no address with a prefix length, such as 10.1.0.250/24.") from error
    layout = Layout.of(lab_id)
    require_root()
    with registry.locked(layout.lock_file, timeout_s=LOCK_TIMEOUT_S):
        inside = place.enter(layout, OUTSIDE)
        name = _name(layout, vlan)
        links.ensure_namespace(name)
        if vlan is None:
            links.ensure_link(
                links.End(name, "eth0"), links.End(layout.namespace(SWITCH), "probe"), bridge="flat"
            )
        else:
            port = links.End(layout.namespace(OUTSIDE), f"p{vlan}")
            if links.ensure_link(links.End(name, "eth0"), port):
                openvswitch.ensure_port_removed(inside, port.device, host=OUTSIDE)
            links.disable_offloads(name, "eth0")
            links.disable_offloads(port.namespace, port.device)
            openvswitch.ensure_port(inside, port.device, vlan=vlan, host=OUTSIDE)
        links.ensure_address(name, "eth0", cidr)
    return Probe(lab_id, vlan, name)


def close_probe(probe: Probe) -> None:
    """Remove a probe and whatever still runs in it."""
    layout = Layout.of(probe.lab_id)
    with registry.locked(layout.lock_file, timeout_s=LOCK_TIMEOUT_S):
        name = _name(layout, probe.vlan)
        kill_all(select_namespace(name))
        if probe.vlan is not None and place.is_running(layout, OUTSIDE):
            openvswitch.ensure_port_removed(place.enter(layout, OUTSIDE), f"p{probe.vlan}", host=OUTSIDE)
        links.remove_namespace(name)


def _name(layout: Layout, vlan: int | None) -> str:
    return layout.namespace("pflat" if vlan is None else f"p{vlan}")
