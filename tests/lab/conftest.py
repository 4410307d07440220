"""A second lab for this directory: its tests kill hosts and daemons; the shared `lab` must not suffer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import libvirt
import pytest

from deployments.guests.images import ensure_image
from deployments.lab import control
from deployments.lab.leftovers import interfaces, leftovers
from deployments.lab.state import Lab
from tests.lab.datacenter import clean, datacenter, enrolled  # noqa: F401 - fixtures
from tests.lab.guests import GuestMaker, wait_for
from tests.lab.newcomer import newcomer  # noqa: F401 - a fixture
from tests.lab.web import guest, left  # noqa: F401 - fixtures
from tests.lab.wire import Ports
from tests.lab_fixture import LabAccess, require_lab

OWN_LAB = f"o{os.getpid():x}"[:8]


@pytest.fixture(scope="session")
def _own_lab_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The VDC_HOME of the lab, which is taken down at the end of the session, whatever happened."""
    require_lab()
    home = tmp_path_factory.mktemp("own-lab-home")
    before = interfaces()
    try:
        yield home
    finally:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("VDC_HOME", str(home))
            control.down(OWN_LAB, purge=True)
            assert leftovers(OWN_LAB) == []
            # Another lab makes its own meanwhile, and moves them where they belong.
            wait_for(lambda: interfaces() <= before, f"no interface but {sorted(before)}")


@pytest.fixture
def lab_home(_own_lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary VDC_HOME, in force for the test."""
    monkeypatch.setenv("VDC_HOME", str(_own_lab_home))
    return _own_lab_home


@pytest.fixture
def own_lab(lab_home: Path) -> Lab:
    """The lab, up: the first test that asks starts it, later ones repair what their predecessors broke."""
    lab = control.up(OWN_LAB)
    known_hosts = lab_home / "ssh" / "known_hosts"
    known_hosts.write_text("".join(f"{host.host_key}\n" for host in lab.hosts))
    return lab


@pytest.fixture(scope="session")
def tiny_image() -> Path:
    return ensure_image()


@pytest.fixture
def ports(lab: LabAccess) -> Iterator[Ports]:
    """Cards without guests, on the hosts of the shared lab."""
    with ExitStack() as stack:
        yield Ports(lab, stack)


@pytest.fixture
def guests(own_lab: Lab, tiny_image: Path) -> Iterator[GuestMaker]:
    """Starts machines by plain libvirt; they are gone after the test."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    if not (own_lab.datastore / "base.qcow2").exists():
        shutil.copyfile(tiny_image, own_lab.datastore / "base.qcow2")
    maker = GuestMaker(own_lab)
    try:
        yield maker
    finally:
        maker.remove_all()


@pytest.fixture
def spare_id(lab_home: Path) -> Iterator[str]:
    """Id for a lab that a test makes itself; it is taken down, and proved gone, however the test ends."""
    lab_id = f"x{os.getpid():x}"[:8]
    try:
        yield lab_id
    finally:
        control.down(lab_id, purge=True)
        assert leftovers(lab_id) == []
