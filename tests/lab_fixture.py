"""One lab for all tests of a session that need real hypervisor hosts; started by the first of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from drivers.contract import Access
from tests.requires import missing
from vdc.model import HostRef

if TYPE_CHECKING:
    from deployments.lab.state import Lab

PROGRAMS = {
    "libvirtd": "libvirt-daemon-system",
    "ovs-vsctl": "openvswitch-switch",
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "sshd": "openssh-server",
}
"""What a lab runs, and Debian's package of it."""


@dataclass(frozen=True)
class LabAccess:
    """A lab with the keys to its hosts."""

    lab: Lab
    access: Access

    def host(self, name: str = "h1") -> HostRef:
        seen = self.lab.host(name)
        return HostRef(name, seen.uri, domain_type="qemu", migration_address=seen.migration_address)

    def file_server(self) -> str:
        """URI of what the lab's file server exports; the first who asks has it started."""
        return _file_server(self.lab.lab_id, self.lab.home)


@cache
def _file_server(lab_id: str, home: Path) -> str:
    from deployments.lab import control
    from deployments.lab.file_server import PACKAGES

    _require(PACKAGES)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VDC_HOME", str(home))
        return control.up(lab_id, nfs=True).nfs_uri


def require_lab() -> None:
    """Skip or fail where this machine cannot run a lab."""
    if os.geteuid() != 0:
        missing("a lab needs root: it makes namespaces")
    _require(PROGRAMS)


def _require(programs: Mapping[str, str]) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    for program, package in programs.items():
        if not shutil.which(program, path=path):
            missing(f"a lab needs {program} (Debian package: {package})")


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabAccess]:
    """Two hosts in a VDC_HOME of their own; gone at the end of the session, to the last process.

    The environment is changed for the start and the end alone: other tests choose their own VDC_HOME.
    """
    require_lab()
    from deployments.lab import control, leftovers

    home = tmp_path_factory.mktemp("lab-home")
    lab_id = f"t{os.getpid():x}"[:8]
    try:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VDC_HOME", str(home))
            # No test asks what a start checks of CPU features, which takes most of its time.
            running = control.up(lab_id, hosts=2, fast_floor=True)
        known_hosts = home / "ssh" / "known_hosts"
        known_hosts.write_text("".join(f"{host.host_key}\n" for host in running.hosts))
        yield LabAccess(running, Access(home / "ssh" / "id_ed25519", known_hosts))
    finally:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VDC_HOME", str(home))
            control.down(lab_id, purge=True)
            assert leftovers.leftovers(lab_id) == []
