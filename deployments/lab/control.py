"""Lab up, lab down, and the accidents that tests want to happen to a host."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from deployments.lab import file_server, host_files, links, management, openvswitch, place, registry
from deployments.lab.ec2 import endpoint
from deployments.lab.host import cut_power, ensure_host
from deployments.lab.layout import EC2, MAX_HOSTS, OUTSIDE, Layout
from deployments.lab.processes import kill_all, namespaces, read_pid, select_lab
from deployments.lab.state import Description, Lab, load, read_description, write_description
from deployments.lab.system import PACKAGES, require_root
from deployments.programs import require_programs
from drivers.ssh_files import ensure_ssh_files
from vdc.errors import Conflict, Invalid, NotFound

LOCK_TIMEOUT_S = 120.0

Log = Callable[[str], None]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def up(
    lab_id: str = "demo",
    hosts: int = 2,
    *,
    fast_floor: bool | None = None,
    nfs: bool | None = None,
    log: Log = _to_stderr,
) -> Lab:
    """Make the lab run with at least `hosts` hosts, repairing what is missing; returns when all serve.

    A running lab grows but never shrinks. `fast_floor` makes starts of machines cheap by leaving out a check
    of CPU features, for measurements; `nfs` gives it a file server (None: as it was, at first off).

    Raises Refused without root or programs, Conflict if the id belongs to another VDC_HOME, DriverFailure
    with the end of the right log if something does not start.
    """
    if not 2 <= hosts <= MAX_HOSTS:
        raise Invalid(f"A lab has 2 to {MAX_HOSTS} hosts, not {hosts}.")
    layout = Layout.of(lab_id)
    require_root()
    require_programs(PACKAGES, "The lab")
    with registry.locked(layout.lock_file, timeout_s=LOCK_TIMEOUT_S):
        before = read_description(layout)
        number = registry.claim(layout, preferred=before.number if before else None)
        if before and namespaces(layout):
            hosts = max(hosts, before.hosts)
        if fast_floor is None:
            fast_floor = before.fast_floor if before else False
        if nfs is None:
            nfs = before.nfs if before else False
        if nfs:
            require_programs(file_server.PACKAGES, "The lab's file server")
        description = Description(number, hosts, fast_floor, nfs)
        layout.datastore.mkdir(parents=True, exist_ok=True)
        write_description(layout, description)
        ensure_ssh_files(layout.ssh_dir)
        # In the background: it takes seconds to answer, and nothing here waits for it.
        endpoint.start(endpoint.address_of(number), endpoint.PORT, layout.place(EC2), layout.environment)
        for name in description.host_names:
            host_files.write_keys(place.prepare(layout, name))
        links.ensure_switch(layout)
        with ThreadPoolExecutor(max_workers=hosts + 1) as pool:
            outside = pool.submit(_ensure_outside, layout)
            started = [
                pool.submit(_ensure_host, layout, name, description, log) for name in description.host_names
            ]
            for future in (outside, *started):
                future.result()
        if nfs:
            served = file_server.ensure_file_server(layout)
            log(f"lab {lab_id}: its file server {'is up' if served else 'was up'}")
    return load(lab_id)


def down(lab_id: str = "demo", *, purge: bool = False, log: Log = _to_stderr) -> bool:
    """Take the lab down to its last process, namespace and link, machines included; False if it was down.

    Works from whatever state a crash left. Disks, definitions and keys stay, as in a rack without power,
    unless `purge` removes the state directory too. Raises Conflict if the lab of that id belongs to another
    VDC_HOME.
    """
    layout = Layout.of(lab_id)
    require_root()
    with registry.locked(layout.lock_file, timeout_s=LOCK_TIMEOUT_S):
        owner = registry.owner(layout)
        if owner not in (None, str(layout.home)):
            raise Conflict(f"Lab {lab_id!r} belongs to VDC_HOME={owner}: take it down with that setting.")
        pid_files = layout.state.glob("*/reaper.pid")
        killed = kill_all(select_lab(layout), last=[pid for pid in map(read_pid, pid_files) if pid])
        names = namespaces(layout)
        for name in names:
            links.remove_namespace(name)
        registry.release(layout)
        if purge and layout.state.exists():
            shutil.rmtree(layout.state)
    log(f"lab {lab_id}: {killed} processes ended, {len(names)} namespaces removed")
    return bool(killed or names)


def disconnect_host(lab_id: str, host: str) -> bool:
    """Make a host unreachable for the control plane: it lives on, its management port is closed."""
    return management.stop_listener(*_place_of(lab_id, host))


def reconnect_host(lab_id: str, host: str) -> bool:
    layout, _ = _place_of(lab_id, host)
    description = read_description(layout)
    assert description is not None
    return management.ensure_listener(layout, description.number, host)


def kill_host(lab_id: str, host: str) -> None:
    """Pull a host's power cord: every process on it dies, nothing answers any more. `up` brings it back."""
    layout, _ = _place_of(lab_id, host)
    management.stop_listener(layout, host)
    cut_power(layout, host)


def kill_service(lab_id: str, host: str, service: str) -> bool:
    """Kill one daemon of a host (libvirtd, sshd, ovsdb-server, ovs-vswitchd). `up` brings it back."""
    layout, _ = _place_of(lab_id, host)
    return place.stop_service(layout, host, service)


def _place_of(lab_id: str, host: str) -> tuple[Layout, str]:
    layout = Layout.of(lab_id)
    description = read_description(layout)
    if description is None or host not in description.host_names:
        raise NotFound(f"Lab {lab_id!r} in {layout.home} has no host {host!r}.")
    return layout, host


def _ensure_host(layout: Layout, host: str, description: Description, log: Log) -> None:
    started = ensure_host(layout, host, description.host_names, fast_floor=description.fast_floor)
    started |= management.ensure_listener(layout, description.number, host)
    log(f"lab {layout.lab_id}: {host} {'is up' if started else 'was up'}")


def _ensure_outside(layout: Layout) -> None:
    """The place that probes are plugged into."""
    directory = place.prepare(layout, OUTSIDE)
    host_files.write_names(directory)
    links.ensure_outside_links(layout)
    if not place.is_running(layout, OUTSIDE):
        openvswitch.create_database(directory)
    place.ensure_running(layout, OUTSIDE, openvswitch.services())
    openvswitch.ensure_bridge(place.enter(layout, OUTSIDE), host=OUTSIDE)
