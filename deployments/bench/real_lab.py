"""Real machines on the lab's two hosts: our flows against the bare loop, in turn, in one warm process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deployments.bench.figures import Figures, say
from deployments.bench.house import House
from deployments.lab import control, leftovers
from deployments.lab.state import SHARED_DATASTORE, Lab
from vdc.access import actor
from vdc.catalog import create_datastore, create_template, create_vnet
from vdc.inventory import read_session, write_session
from vdc.model import VmSpec
from vdc.requests import DeployRequest, EnrollHostRequest, ImportImageRequest, TerminateRequest
from vdc.schema import Operation

if TYPE_CHECKING:
    from drivers.hypervisor import bare

NORMAL, FAST = "lab", "lab, fast floor"
RATIO_LIMIT = {NORMAL: 1.15, FAST: 1.5}
MEMORY_MIB = 48
DISK_MIB = 64
WARM_UP = 4


@dataclass(frozen=True, slots=True)
class Round:
    """One side's turn. CPU: this process, and the Prefect server, until it has recorded everything."""

    make_s: float
    remove_s: float
    client_cpu_s: float
    server_cpu_s: float = 0.0
    behind_s: float = 0.0

    @property
    def wall_s(self) -> float:
        return self.make_s + self.remove_s


@contextmanager
def lab() -> Iterator[Callable[[bool], Lab]]:
    """Yields what starts the lab, again with another floor if need be; it is taken down at the end."""
    lab_id = f"b{os.getpid():x}"[:8]

    def start(fast_floor: bool) -> Lab:
        # Without purge: hosts, keys and images stay, only the floor changes.
        control.down(lab_id, log=say)
        return control.up(lab_id, 2, fast_floor=fast_floor, log=say)

    try:
        yield start
    finally:
        control.down(lab_id, purge=True, log=say)
        left = leftovers.leftovers(lab_id)
        if left:
            say(f"The lab has left something behind: {left}")


def prepare(house: House, running: Lab, machines: int) -> None:
    """Everything of the inventory that a deployment needs, by the flows that a user would run."""
    from flows.enroll_host import enroll_host
    from flows.import_image import import_image

    image = house.settings.home / "bench.qcow2"
    # A paused machine reads nothing of its disk.
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), f"{DISK_MIB}M"], check=True)
    me = actor()
    url = house.settings.inventory_url
    with write_session(url) as session:
        create_datastore(session, "lab", f"qcow2://{SHARED_DATASTORE}", disk_format="qcow2", actor=me)
        create_vnet(
            session,
            "lab",
            uri="vlan://ovsbr0",
            needs_vlan=True,
            vlan_id=100,
            cidr="10.1.0.0/16",
            actor=me,
        )
    for host in running.hosts:
        enroll_host(
            EnrollHostRequest(
                name=host.name,
                uri=host.uri,
                host_key=host.fingerprint,
                domain_type="qemu",
                migration_address=host.migration_address,
                datastores=["lab"],
                # Paused machines use no CPU.
                cpu_overcommit=60.0,
            )
        )
    import_image(ImportImageRequest(file=str(image), name="lab", datastore="lab"))
    with write_session(url) as session:
        create_template(session, "lab", image="lab", vcpu=1, memory_mib=MEMORY_MIB, vnets=["lab"], actor=me)


def measure(house: House, part: str, machines: int, repetitions: int, figures: Figures) -> None:
    """Both sides in turn: A B A B ..."""
    from drivers.hypervisor import bare
    from tasks.environment import environment
    from tasks.floor import bare_machine

    per_host = house.settings.per_host_concurrency
    specs = _specs_for(house, machines)
    with bare.connected(sorted({s.host for s in specs}, key=lambda h: h.name), environment().access) as hosts:
        batch = [(hosts[spec.host.name], bare_machine(spec)) for spec in specs]
        ours: list[Round] = []
        floor: list[Round] = []
        _bare_round(batch[:WARM_UP], per_host)
        for number in range(1, repetitions + 1):
            house.wait_quiet()
            ours.append(_our_round(house, machines))
            house.wait_quiet()
            floor.append(_bare_round(batch, per_host))
            a, b = ours[-1], floor[-1]
            say(
                f"{part}, {number} of {repetitions}: ours {a.make_s:.2f} + {a.remove_s:.2f} s, "
                f"bare {b.make_s:.2f} + {b.remove_s:.2f} s, ratio {a.wall_s / b.wall_s:.3f}"
            )
    _report(part, machines, ours, floor, figures)


def _report(part: str, machines: int, ours: list[Round], floor: list[Round], figures: Figures) -> None:
    def per_machine(seconds: list[float]) -> list[float]:
        return [1000 * s / machines for s in seconds]

    n = machines
    figures.add(part, f"deploy + terminate {n}, ours", "s", [r.wall_s for r in ours])
    figures.add(part, f"deploy + terminate {n}, bare", "s", [r.wall_s for r in floor])
    pairs = list(zip(ours, floor, strict=True))
    ratio = [a.wall_s / b.wall_s for a, b in pairs]
    figures.add(part, "deploy + terminate, ours / bare", "ratio", ratio, RATIO_LIMIT[part])
    figures.add(part, "deploy, ours / bare", "ratio", [a.make_s / b.make_s for a, b in pairs])
    figures.add(part, "terminate, ours / bare", "ratio", [a.remove_s / b.remove_s for a, b in pairs])
    figures.add(part, "deploy, ours", "machines/s", [n / r.make_s for r in ours])
    figures.add(part, "deploy, bare", "machines/s", [n / r.make_s for r in floor])
    figures.add(part, "terminate, ours", "machines/s", [n / r.remove_s for r in ours])
    figures.add(part, "terminate, bare", "machines/s", [n / r.remove_s for r in floor])
    client = per_machine([a.client_cpu_s - b.client_cpu_s for a, b in pairs])
    server = per_machine([r.server_cpu_s for r in ours])
    figures.add(part, "our CPU beyond the bare loop's, client", "ms/machine", client)
    figures.add(part, "our CPU, Prefect server", "ms/machine", server)
    both = [c + s for c, s in zip(client, server, strict=True)]
    figures.add(part, "our CPU, client and server", "ms/machine", both)
    figures.add(part, "Prefect server behind the flow", "s", [r.behind_s for r in ours])


def _our_round(house: House, machines: int) -> Round:
    from flows.deploy import deploy
    from flows.terminate import terminate

    client, server = time.process_time(), house.server_cpu_s()
    begun = time.monotonic()
    made = deploy(_request(machines))
    make_s = time.monotonic() - begun
    behind_s = house.wait_recorded(house.flow_run_of(made), machines)
    house.wait_quiet()
    names = _machines_of(house, made)
    begun = time.monotonic()
    removed = terminate(TerminateRequest(vms=names))
    remove_s = time.monotonic() - begun
    behind_s = max(behind_s, house.wait_recorded(house.flow_run_of(removed), machines))
    house.wait_quiet()
    return Round(make_s, remove_s, time.process_time() - client, house.server_cpu_s() - server, behind_s)


def _bare_round(batch: bare.Batch, per_host: int) -> Round:
    from drivers.hypervisor import bare

    client, begun = time.process_time(), time.monotonic()
    bare.make_all(batch, per_host)
    middle = time.monotonic()
    bare.remove_all(batch, per_host)
    return Round(middle - begun, time.monotonic() - middle, time.process_time() - client)


def _request(machines: int) -> DeployRequest:
    return DeployRequest(template="lab", count=machines, start="paused")


def _machines_of(house: House, operation_id: str) -> list[str]:
    with read_session(house.settings.inventory_url) as session:
        children = session.query(Operation.object_id).filter_by(parent_id=operation_id)
        return [row.object_id for row in children]


def _specs_for(house: House, machines: int) -> list[VmSpec]:
    """Machines as our own claim would make them. The bare loop gets the same; also our warm-up."""
    from flows.deploy import deploy
    from flows.terminate import terminate
    from vdc.claims.deploy import claim_deploy

    made = deploy(_request(WARM_UP))
    terminate(TerminateRequest(vms=_machines_of(house, made)))
    prices = house.settings.prices
    with write_session(house.settings.inventory_url, commit=False) as session:
        claim = claim_deploy(session, _request(machines), actor=actor(), prices=prices)
    return [machine.spec for machine in claim.batch.machines]
