"""What a lab is at this moment, as a value: for tests, the demo and `vdc lab status`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from deployments.guests.images import cache_directory
from deployments.lab import file_server, host_files, place
from deployments.lab.ec2 import endpoint
from deployments.lab.host import libvirt_answers, services
from deployments.lab.layout import (
    EC2,
    MANAGEMENT_PORT,
    Layout,
    host_names,
    management_address,
    service_address,
)
from deployments.lab.processes import read_pid
from deployments.lab.system import require_root
from deployments.programs import run
from drivers.ssh_files import management_uri, write_if_changed
from vdc.errors import NotFound

SHARED_DATASTORE = "/srv/vdc/shared"
LOCAL_DATASTORE = "/srv/vdc/local"


@dataclass(frozen=True, slots=True)
class Description:
    """What was asked of `up`, kept in the state directory."""

    number: int
    """Of the lab's own loopback network, 127.77.<number>.0."""
    hosts: int
    fast_floor: bool = False
    nfs: bool = False

    @property
    def host_names(self) -> tuple[str, ...]:
        return host_names(self.hosts)


@dataclass(frozen=True, slots=True)
class LabHost:
    """One host. `state` is `up`, `degraded` (see `missing`) or `down`."""

    name: str
    state: str
    address: str
    """Of the management listener, on loopback."""
    port: int
    uri: str
    """Works as it stands with `virsh -c` once the host key is in the list of known hosts."""
    host_key: str
    """A line for known_hosts."""
    fingerprint: str
    """`SHA256:...` of the host key."""
    migration_address: str
    """On the service network: for other hosts, never for the control plane."""
    pid: int | None
    """First process of the host."""
    missing: tuple[str, ...] = ()
    """Services that should run and do not; `listener` stands for reachability."""


@dataclass(frozen=True, slots=True)
class Lab:
    """A lab. `datastore` is seen by every host as /srv/vdc/shared; each has a /srv/vdc/local of its own."""

    lab_id: str
    home: Path
    hosts: tuple[LabHost, ...]
    datastore: Path
    image_cache: Path
    fast_floor: bool
    ec2_url: str = ""
    """Of its cloud; empty while that does not run. It may take some seconds to answer."""
    nfs_uri: str = ""
    """Of a datastore on its file server; empty while that does not serve."""

    @property
    def ec2_uri(self) -> str:
        """For `vdc cloud add`."""
        return endpoint.uri_of(self.ec2_url)

    @property
    def state(self) -> str:
        """`up` or `down` if all hosts are so, else `degraded`."""
        states = {host.state for host in self.hosts}
        return states.pop() if len(states) == 1 else "degraded"

    def host(self, name: str) -> LabHost:
        for host in self.hosts:
            if host.name == name:
                return host
        raise NotFound(f"Lab {self.lab_id} has no host {name!r}.")


def load(lab_id: str = "demo") -> Lab:
    """Observe a lab of the present VDC_HOME. Raises NotFound if there is none, up or down; needs root."""
    layout = Layout.of(lab_id)
    require_root()
    description = read_description(layout)
    if description is None:
        raise NotFound(
            f"There is no lab {lab_id!r} in {layout.home}: make it with `vdc lab up --lab {lab_id}`."
        )
    return Lab(
        lab_id=lab_id,
        home=layout.home,
        hosts=tuple(_observe(layout, description, host) for host in description.host_names),
        datastore=layout.datastore,
        image_cache=cache_directory(),
        fast_floor=description.fast_floor,
        ec2_url=_ec2_url(layout, description),
        nfs_uri=file_server.URI if file_server.serves(layout) else "",
    )


def _ec2_url(layout: Layout, description: Description) -> str:
    if not endpoint.is_running(layout.place(EC2)):
        return ""
    return f"http://{endpoint.address_of(description.number)}:{endpoint.PORT}"


def read_description(layout: Layout) -> Description | None:
    if not layout.description.exists():
        return None
    return Description(**json.loads(layout.description.read_text()))


def write_description(layout: Layout, description: Description) -> None:
    write_if_changed(layout.description, json.dumps(asdict(description)) + "\n")


def _observe(layout: Layout, description: Description, host: str) -> LabHost:
    directory = layout.place(host)
    pid = read_pid(directory / "reaper.pid")
    missing = place.missing_services(layout, host, services(layout))
    if "libvirtd" not in missing and not libvirt_answers(layout, host):
        missing.append("libvirtd")
    if read_pid(directory / "listener.pid") is None:
        missing.append("listener")
    address = management_address(description.number, host)
    public = directory / f"{host_files.HOST_KEY}.pub"
    known = public.exists()
    return LabHost(
        name=host,
        state="down" if pid is None else "degraded" if missing else "up",
        address=address,
        port=MANAGEMENT_PORT,
        uri=management_uri("root", address, MANAGEMENT_PORT, layout.ssh_dir),
        host_key=f"[{address}]:{MANAGEMENT_PORT} {host_files.public_host_key(directory)}" if known else "",
        fingerprint=run(["ssh-keygen", "-lf", str(public)]).split()[1] if known else "",
        migration_address=service_address(host),
        pid=pid,
        missing=tuple(missing),
    )
