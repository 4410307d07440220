"""What reading commands and the start of a flow command take: whole processes, from start to end."""

from __future__ import annotations

from pathlib import Path

from deployments.bench.command import python, vdc
from deployments.bench.figures import Figures
from vdc import inventory
from vdc.access import actor
from vdc.catalog import create_datastore, create_vnet
from vdc.claims.deploy import claim_deploy
from vdc.inventory import write_session
from vdc.requests import DeployRequest
from vdc.schema import Host, HostDatastore, Image, Template, new_id
from vdc.settings import load

PART = "command line"
MACHINES = 2000
LIST_LIMIT_S = 0.5


def measure(directory: Path, repetitions: int, figures: Figures) -> None:
    """`directory` gets an inventory of its own."""
    url = f"sqlite:///{directory / 'reading.db'}"
    fill(url, MACHINES)
    environment = {"VDC_DATABASE_URL": url}
    commands = {
        f"vm list, {MACHINES:,} machines": (("vm", "list"), LIST_LIMIT_S),
        f"vm list --json, {MACHINES:,} machines": (("vm", "list", "--json"), LIST_LIMIT_S),
        "vm show": (("vm", "show", "m-1"), None),
        "--help": (("--help",), None),
    }
    for name, (arguments, limit) in commands.items():
        walls = [vdc(*arguments, environment=environment).wall_s for _ in range(repetitions)]
        figures.add(PART, f"vdc {name}", "s", walls, limit)
    starts = [python("-c", "import flows.deploy", environment=environment) for _ in range(repetitions)]
    figures.add(PART, "imports of a deploying command", "s", [ran.wall_s for ran in starts])
    figures.add(PART, "imports of a deploying command, CPU", "s", [ran.cpu_s for ran in starts])


def fill(url: str, machines: int) -> None:
    """An inventory with so many machines, as the real claim writes them."""
    inventory.migrate(url)
    me = actor()
    with write_session(url) as session:
        store = create_datastore(session, "shared", "qcow2:///srv/vdc", disk_format="qcow2", actor=me)
        vnet = create_vnet(
            session,
            "blue",
            uri="vlan://ovsbr0",
            needs_vlan=True,
            vlan_id=100,
            cidr="10.0.0.0/16",
            actor=me,
        )
        for n in range(1, 21):
            host = Host(
                id=new_id(),
                name=f"h{n}",
                uri=f"qemu+ssh://root@h{n}/system",
                state="enabled",
                domain_type="kvm",
                arch="x86_64",
                vcpu=256,
                memory_mib=2**20,
                networks=["vlan://ovsbr0"],
            )
            session.add(host)
            session.flush()
            session.add(HostDatastore(host_id=host.id, datastore_id=store.id))
        image = Image(
            id=new_id(),
            name="debian",
            datastore_id=store.id,
            host_id=host.id,
            state="ready",
            file="image.qcow2",
            format="qcow2",
            virtual_size_mib=2048,
            size_mib=400,
            sha256="",
        )
        session.add(image)
        session.flush()
        session.add(
            Template(
                id=new_id(),
                name="small",
                image_id=image.id,
                vcpu=1,
                memory_mib=512,
                disk_mib=4096,
                vnet_ids=[vnet.id],
                ssh_keys=[],
            )
        )
        session.flush()
        request = DeployRequest(template="small", count=machines, name="m")
        claim_deploy(session, request, actor=me, prices=load().prices)
