"""Scale without machines: 1,500 simulated ones through Prefect, each time in one command."""

from __future__ import annotations

import subprocess

from deployments.bench.command import vdc
from deployments.bench.figures import Figures, say
from deployments.bench.house import House
from drivers.simulated import Simulation, host_facts
from vdc.access import actor
from vdc.catalog import create_datastore, create_vnet
from vdc.inventory import read_session, write_session
from vdc.requests import EnrollHostRequest
from vdc.schema import Operation

PART = "simulated"
MACHINES = 1500
HOSTS = 50


def measure(house: House, figures: Figures) -> None:
    """Deploy and terminate, as a user would type it: the command's start is part of it."""
    _prepare(house)
    house.wait_quiet()
    options = ("--template", "sim", "--count", str(MACHINES), "--name", "sim")
    _measure(house, figures, "deploy", *options)
    _measure(house, figures, "terminate", *(f"sim-{n}" for n in range(1, MACHINES + 1)))


def _measure(house: House, figures: Figures, verb: str, *arguments: str) -> None:
    say(f"{PART}: vdc vm {verb}, {MACHINES:,} machines")
    server = house.server_cpu_s()
    ran = vdc("vm", verb, *arguments, "--json")
    behind_s = house.wait_recorded(_last_flow_run(house, verb), MACHINES)
    house.wait_quiet()
    server_s = house.server_cpu_s() - server
    figures.add(PART, f"{verb} {MACHINES:,} in one command", "s", [ran.wall_s])
    figures.add(PART, verb, "machines/s", [MACHINES / ran.wall_s])
    figures.add(PART, f"{verb}, CPU, client", "ms/machine", [1000 * ran.cpu_s / MACHINES])
    figures.add(PART, f"{verb}, CPU, Prefect server", "ms/machine", [1000 * server_s / MACHINES])
    figures.add(PART, f"{verb}, Prefect server behind the command", "s", [behind_s])


def _prepare(house: House) -> None:
    """A datacenter with room, in the inventory. Hosts go in by the claim alone: 50 flows tell us nothing."""
    from tasks.host_check import look_at_host
    from vdc.claims.hosts import check_enrolment, claim_enrolment

    names = [f"sim-{n:02}" for n in range(1, HOSTS + 1)]
    site = Simulation.create(house.settings.home / "simulated.db", [host_facts(name) for name in names])
    url, me = house.settings.inventory_url, actor()
    with write_session(url) as session:
        create_datastore(session, "sim", site.datastore_uri(), disk_format="qcow2", actor=me)
        create_vnet(
            session,
            "sim",
            uri=site.network_uri(),
            needs_vlan=True,
            vlan_id=100,
            cidr="10.2.0.0/16",
            actor=me,
        )
        for name in names:
            request = EnrollHostRequest(
                name=name,
                uri=site.host(name).uri,
                datastores=["sim"],
                networks=[site.network_uri()],
                cpu_overcommit=4.0,
            )
            seen = look_at_host(request, check_enrolment(session, request))
            claim_enrolment(session, request, seen, actor=me)
    image = house.settings.home / "simulated.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "64M"], check=True)
    vdc("image", "import", str(image), "--name", "sim", "--datastore", "sim")
    vdc("template", "create", "sim", "--image", "sim", "--memory-mib", "64", "--vnet", "sim")


def _last_flow_run(house: House, kind: str) -> str:
    with read_session(house.settings.inventory_url) as session:
        newest = session.query(Operation.flow_run_id).filter_by(kind=kind, parent_id=None)
        return str(newest.order_by(Operation.started_at.desc()).limit(1).scalar())
