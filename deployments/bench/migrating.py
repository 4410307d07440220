"""A machine in use, moved to and fro on the lab: our flow against `virsh migrate` on its host, in turn."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from deployments.bench.figures import Figures, say
from deployments.bench.house import House
from deployments.guests.images import ensure_image
from deployments.lab.probe import Probe, open_probe
from deployments.lab.state import Lab, LabHost
from drivers import registry
from tasks import timing
from tasks.environment import environment
from vdc import specs
from vdc.access import actor
from vdc.catalog import create_template
from vdc.errors import TimedOut
from vdc.inventory import read_session, write_session
from vdc.metering import read_hosts
from vdc.model import HostRef, MigrationResult, VmSpec
from vdc.requests import DeployRequest, ImportImageRequest, MigrateRequest, TerminateRequest
from vdc.schema import Vm

if TYPE_CHECKING:
    import libvirt

PART = "migrate"
NAME = "moving"
TOTAL_LIMIT, DOWNTIME_LIMIT = 1.15, 1.1
BOOT_TIMEOUT_S = 300.0
PING_PERIOD_S = 0.02
MEMORY_MIB, KEPT_MIB = 1024, 512
IN_USE = f"""#!/bin/sh
# Half of the memory holds something, and 10 MiB of that change every second.
dd if=/dev/urandom of=/kept bs=1M count={KEPT_MIB}
hostname in-use
at=0
while :; do
  dd if=/dev/zero of=/kept bs=1M count=1 seek=$at conv=notrunc
  at=$(((at + 1) % {KEPT_MIB}))
  usleep 100000
done
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """One migration: seconds from call to return, what libvirt counted, and how long no ping came back."""

    wall_s: float
    counted: MigrationResult
    gap_s: float
    steps_s: Mapping[str, float]
    """What each of our steps took; empty for virsh."""


def measure(house: House, running: Lab, repetitions: int, figures: Figures) -> None:
    """Both sides go the same ways: who goes first changes with every pair."""
    from flows.terminate import terminate

    url = house.settings.inventory_url
    _deploy(url)
    probe = open_probe(running.lab_id, 100, "10.1.255.250/16")
    address = _spec(url).nics[0].address
    _wait_until_in_use(probe, address)
    sides: dict[str, Callable[[], MigrationResult]] = {
        "ours": lambda: _our_turn(url),
        "virsh": lambda: _virsh_turn(url, running),
    }
    seen: dict[str, list[Turn]] = {side: [] for side in sides}
    for side in sides:  # a warm-up: connections, code
        _turn(url, sides[side], side, probe, address)
    for number in range(1, repetitions + 1):
        for side in sorted(sides, reverse=number % 2 == 0):
            house.wait_quiet()
            seen[side].append(_turn(url, sides[side], side, probe, address))
        a, b = seen["ours"][-1], seen["virsh"][-1]
        say(
            f"{PART}, {number} of {repetitions}: ours {a.wall_s:.2f} s ({a.counted.total_s}, "
            f"{a.counted.downtime_s}), virsh {b.wall_s:.2f} s ({b.counted.total_s}, {b.counted.downtime_s})"
        )
    terminate(TerminateRequest(vms=[NAME]))
    _report(seen["ours"], seen["virsh"], figures)


def _report(ours: list[Turn], virsh: list[Turn], figures: Figures) -> None:
    for side, turns in (("ours", ours), ("virsh", virsh)):
        figures.add(PART, f"call to return, {side}", "s", [t.wall_s for t in turns])
        figures.add(PART, f"total as libvirt counts, {side}", "s", [_known(t.counted.total_s) for t in turns])
        figures.add(PART, f"downtime, {side}", "s", [_known(t.counted.downtime_s) for t in turns])
        figures.add(PART, f"longest time without a ping, {side}", "s", [t.gap_s for t in turns])
    for step in ours[0].steps_s:
        figures.add(PART, f"step '{step}', ours", "s", [t.steps_s.get(step, 0.0) for t in ours])
    other = [t.wall_s - sum(t.steps_s.values()) for t in ours]
    figures.add(PART, "between the steps, ours", "s", other)
    pairs = list(zip(ours, virsh, strict=True))
    counted = [_known(a.counted.total_s) / _known(b.counted.total_s) for a, b in pairs]
    figures.add(PART, "total as libvirt counts, ours / virsh", "ratio", counted)
    total = [a.wall_s / b.wall_s for a, b in pairs]
    downtime = [_known(a.counted.downtime_s) / _known(b.counted.downtime_s) for a, b in pairs]
    figures.add(PART, "call to return, ours / virsh", "ratio", total, TOTAL_LIMIT)
    figures.add(PART, "downtime, ours / virsh", "ratio", downtime, DOWNTIME_LIMIT)


def _known(seconds: float | None) -> float:
    assert seconds is not None, "libvirt has just counted it"
    return seconds


def _deploy(url: str) -> None:
    from flows.deploy import deploy
    from flows.import_image import import_image

    import_image(ImportImageRequest(file=str(ensure_image()), name="tiny", datastore="lab"))
    with write_session(url) as session:
        create_template(
            session,
            "tiny",
            image="tiny",
            vcpu=1,
            memory_mib=MEMORY_MIB,
            vnets=["lab"],
            start_script=IN_USE,
            actor=actor(),
        )
    deploy(DeployRequest(template="tiny", name=NAME))


def _spec(url: str) -> VmSpec:
    with read_session(url) as session:
        return specs.load(session.query(Vm.spec).filter(Vm.name == NAME).scalar())


def _wait_until_in_use(probe: Probe, address: str) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while "hostname=in-use" not in (probe.fetch(address, timeout_s=2) or ""):
        if time.monotonic() > deadline:
            raise TimedOut(f"{NAME} does not answer at {address} that its memory is in use.")


def _turn(url: str, migrate: Callable[[], MigrationResult], side: str, probe: Probe, address: str) -> Turn:
    from flows.reconcile import reconcile

    before = _spec(url).host.name
    steps: list[timing.Step] = []
    with tempfile.TemporaryFile("w+") as replies:
        command = probe.command(["ping", "-n", "-D", "-i", str(PING_PERIOD_S), address])
        ping = subprocess.Popen(command, stdout=replies)
        try:
            with timing.listening(steps.append):
                begun = time.monotonic()
                counted = migrate()
                wall_s = time.monotonic() - begun
            _wait_until_in_use(probe, address)  # one that broke on the way is no measurement
        finally:
            ping.send_signal(signal.SIGINT)
            ping.wait()
        replies.seek(0)
        at = [float(stamp) for stamp in re.findall(r"^\[([0-9.]+)\].*ttl=", replies.read(), re.MULTILINE)]
    if side == "virsh":
        reconcile()  # the inventory learns where it went
    assert _spec(url).host.name != before, "it has moved"
    took: dict[str, float] = {}
    for step in steps:
        took[step.name] = took.get(step.name, 0.0) + step.ended - step.begun
    return Turn(wall_s, counted, max(b - a for a, b in pairwise(at)), took)


def _our_turn(url: str) -> MigrationResult:
    from flows.migrate import migrate
    from vdc.schema import Operation

    operation_id = migrate(MigrateRequest(vm=NAME))
    with read_session(url) as session:
        told = session.get_one(Operation, operation_id).result or {}
    return MigrationResult(told["total_s"], told["downtime_s"])


def _plug_in(spec: VmSpec, host: HostRef) -> None:
    for nic in spec.nics:
        network = registry.network(nic.vnet.uri, host, environment().access)
        network.ensure_network(nic.vnet)
        network.ensure_ports([nic])


def _unplug(spec: VmSpec, host: HostRef) -> None:
    for nic in spec.nics:
        network = registry.network(nic.vnet.uri, host, environment().access)
        network.ensure_ports_removed([nic.device])


def _host(url: str, name: str) -> HostRef:
    with read_session(url) as session:
        (host,) = [ref for ref in read_hosts(session) if ref.name == name]
    return host


def _other(spec: VmSpec, running: Lab) -> LabHost:
    (target,) = [host for host in running.hosts if host.name != spec.host.name]
    return target


def _virsh_turn(url: str, running: Lab) -> MigrationResult:
    """As a person would type it on the source, and its cards' ports. The reading is part of ours too."""
    import libvirt

    from drivers.hypervisor import migration

    spec = _spec(url)
    target = _other(spec, running)
    flags = ["--live", "--p2p", "--persistent", "--undefinesource", "--unsafe"]
    peer = f"{environment().settings.peer_scheme}://root@{target.migration_address}/system"
    data = f"tcp://{target.migration_address}"
    source, destination = (_host(url, name) for name in (spec.host.name, target.name))
    inside = ["nsenter", "-t", str(running.host(spec.host.name).pid), "-m", "-n", "-u"]
    _plug_in(spec, destination)
    subprocess.run(
        [*inside, "virsh", "-q", "migrate", *flags, spec.domain, peer, data],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    _unplug(spec, source)
    conn = _connections.get(target.name) or libvirt.open(target.uri)
    _connections[target.name] = conn
    return migration.read_result(conn, spec.domain)


_connections: dict[str, libvirt.virConnect] = {}
"""Kept: what is read on them must not count as virsh's time."""
