"""A lab of its own for this test run: two real hosts, taken down at the end whatever happened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from deployments.guests.tiny import ensure_tiny
from deployments.lab import control
from deployments.lab.leftovers import interfaces, leftovers
from deployments.lab.state import Lab
from tests.lab.guests import GuestMaker


@pytest.fixture(scope="session")
def lab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary VDC_HOME. Tests that leave it are told apart from other labs on this machine."""
    home = tmp_path_factory.mktemp("vdc-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VDC_HOME", str(home))
        yield home


@pytest.fixture(scope="session")
def lab_id() -> str:
    return f"t{os.getpid() % 10_000_000}"


@pytest.fixture(scope="session")
def _lab_down_at_the_end(lab_home: Path, lab_id: str) -> Iterator[None]:
    before = interfaces()
    try:
        yield
    finally:
        control.down(lab_id, purge=True)
        assert leftovers(lab_id) == []
        assert interfaces() == before


@pytest.fixture
def lab(_lab_down_at_the_end: None, lab_home: Path, lab_id: str) -> Lab:
    """The lab, up: the first test that asks starts it, later ones repair what their predecessors broke."""
    lab = control.up(lab_id)
    known_hosts = lab_home / "ssh" / "known_hosts"
    known_hosts.write_text("".join(f"{host.host_key}\n" for host in lab.hosts))
    return lab


@pytest.fixture(scope="session")
def tiny_image() -> Path:
    return ensure_tiny()


@pytest.fixture
def guests(lab: Lab, tiny_image: Path) -> Iterator[GuestMaker]:
    """Starts machines by plain libvirt; they are gone after the test."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    if not (lab.datastore / "base.qcow2").exists():
        shutil.copyfile(tiny_image, lab.datastore / "base.qcow2")
    maker = GuestMaker(lab)
    try:
        yield maker
    finally:
        maker.remove_all()
