"""The lab's wires: network namespaces, three switches, and the links from every host to them.

::

    namespace sw      svc    service network 10.77.0.0/24: migration, host to host, tunnels
                      trunk  carries the VLANs' tagged frames between the hosts' Open vSwitches
                      flat   one untagged network, for the hosts' plain bridge br0
    namespace h1      eth0 -> svc,  eth1 -> trunk,  eth2 -> flat (in br0)
    namespace outside eth1 -> trunk

No link leads into the root namespace and no namespace has a default route: nothing can leave the machine.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from deployments.lab.layout import OUTSIDE, SERVICE_PREFIX, SWITCH, Layout, service_address
from deployments.lab.processes import NAMESPACES
from deployments.programs import run

BRIDGES = ("svc", "trunk", "flat")
SERVICE_MTU = 1600
"""Of the service network: tunnels of networks (VXLAN) put 50 bytes around what guests send."""
OFFLOADS = ("tx", "off", "sg", "off", "tso", "off", "gso", "off", "gro", "off")
"""A switch in user space sees frames, not the kernel's half-done segments and checksums."""


@dataclass(frozen=True, slots=True)
class End:
    """One end of a link."""

    namespace: str
    device: str


def ensure_switch(layout: Layout) -> None:
    name = layout.namespace(SWITCH)
    ensure_namespace(name)
    ensure_bridges(name, BRIDGES)
    # It knows no VLANs, and would take a MAC that is on two of them for one that moves to and fro.
    _ip(name, "link set trunk type bridge ageing_time 0")


def ensure_host_links(layout: Layout, host: str) -> None:
    name, switch, number = layout.namespace(host), layout.namespace(SWITCH), host.removeprefix("h")
    ensure_namespace(name)
    for device, bridge in (("eth0", "svc"), ("eth1", "trunk"), ("eth2", "flat")):
        ensure_link(End(name, device), End(switch, f"{bridge}{number}"), bridge=bridge)
    ensure_bridges(name, ["br0"])
    ensure_service_mtu(End(name, "eth0"), End(switch, f"svc{number}"))
    _ip(name, f"addr replace {service_address(host)}/{SERVICE_PREFIX} dev eth0", "link set eth2 master br0")
    disable_offloads(name, "eth1")
    disable_offloads(switch, f"trunk{number}")


def cut_host_links(layout: Layout, host: str) -> None:
    switch, number = layout.namespace(SWITCH), host.removeprefix("h")
    for bridge in BRIDGES:
        remove_device(End(switch, f"{bridge}{number}"))


def ensure_outside_links(layout: Layout) -> None:
    name, switch = layout.namespace(OUTSIDE), layout.namespace(SWITCH)
    ensure_namespace(name)
    ensure_link(End(name, "eth1"), End(switch, "trunkout"), bridge="trunk")
    disable_offloads(name, "eth1")
    disable_offloads(switch, "trunkout")


def ensure_namespace(name: str) -> bool:
    if name in _usable_namespaces():
        return False
    if (NAMESPACES / name).exists():  # `ip netns add` was killed half-way
        run(["ip", "netns", "delete", name])
    run(["ip", "netns", "add", name])
    _ip(name, "link set lo up")
    return True


def remove_namespace(name: str) -> None:
    """Its interfaces go with it, unless a process still lives there."""
    if (NAMESPACES / name).exists():
        run(["ip", "netns", "delete", name])


def ensure_link(inner: End, outer: End, *, bridge: str | None = None) -> bool:
    """Join two namespaces; `bridge` is where the outer end is plugged in."""
    made = False
    if not (inner.device in devices(inner.namespace) and outer.device in devices(outer.namespace)):
        remove_device(inner)
        remove_device(outer)
        _ip(
            inner.namespace,
            f"link add {inner.device} type veth peer name {outer.device} netns {outer.namespace}",
        )
        made = True
    _ip(inner.namespace, f"link set {inner.device} up")
    plug = [f"link set {outer.device} master {bridge}"] if bridge else []
    _ip(outer.namespace, *plug, f"link set {outer.device} up")
    return made


def ensure_bridges(namespace: str, names: Sequence[str]) -> None:
    present = devices(namespace)
    commands = []
    for name in names:
        if name not in present:
            commands.append(f"link add {name} type bridge mcast_snooping 0")
        commands.append(f"link set {name} up")
    _ip(namespace, *commands)


def ensure_address(namespace: str, device: str, cidr: str) -> None:
    _ip(namespace, f"addr replace {cidr} dev {device}")


def ensure_service_mtu(inner: End, outer: End) -> None:
    """Of both ends of a link to the service network: its bridge has the smallest of its ports."""
    for end in (inner, outer):
        _ip(end.namespace, f"link set {end.device} mtu {SERVICE_MTU}")


def remove_device(end: End) -> None:
    if end.device in devices(end.namespace):
        _ip(end.namespace, f"link delete {end.device}")


def devices(namespace: str) -> set[str]:
    if namespace not in _usable_namespaces():
        return set()
    shown = json.loads(run(["ip", "-n", namespace, "-json", "link", "show"]))
    return {str(link["ifname"]) for link in shown}


def disable_offloads(namespace: str, device: str) -> None:
    run(["nsenter", f"--net={NAMESPACES / namespace}", "ethtool", "-K", device, *OFFLOADS])


def _usable_namespaces() -> set[str]:
    """Those that are mounted: a bare file of that name is what a killed `ip netns add` leaves."""
    with open("/proc/self/mountinfo") as mounts:
        return {line.split()[4].rpartition("/")[2] for line in mounts if " - nsfs " in line}


def _ip(namespace: str, *commands: str) -> None:
    run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")
