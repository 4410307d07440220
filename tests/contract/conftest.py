"""The rows of the contract suite. A new driver gets one row here; what needs a real host is marked `lab`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.bench import Bench
from tests.contract.simulated_bench import SimulatedBench


def _simulated(name: str, **options: object) -> object:
    return pytest.param((SimulatedBench, options), id=name)


def _lab(name: str, **options: object) -> object:
    return pytest.param(("lab", options), id=name, marks=pytest.mark.lab)


HYPERVISORS = [_simulated("simulated"), _lab("libvirt")]
DATASTORES = [
    _simulated("simulated-overlay"),
    _simulated("simulated-copy", disk_format="raw"),
    _lab("qcow2", datastore="qcow2"),
    _lab("raw", datastore="raw"),
    _lab("nfs", datastore="nfs"),
    _simulated("simulated-local", shared=False),
    _lab("local", datastore="local"),
]
LOCAL_DATASTORES = DATASTORES[-2:]
NETWORKS = [
    _simulated("simulated-vlan"),
    _simulated("simulated-bridge", vlan=False),
    _simulated("simulated-vxlan", tunnels=True),
    _lab("vlan", network="vlan://{}"),
    _lab("vxlan", network="vxlan://{}"),
    _lab("bridge", network="bridge://{}"),
]
TAGGED_NETWORKS = [
    _simulated("simulated-qinq", network_options="&qinq=802.1ad"),
    _lab("qinq", network="vlan://{}?qinq=802.1ad"),
]


def _bench(request: pytest.FixtureRequest, directory: Path) -> Iterator[Bench]:
    make, options = request.param
    if make == "lab":
        lab = request.getfixturevalue("lab")  # starts it, or says what is missing
        from tests.contract.lab_bench import LabBench

        bench: Bench = LabBench(lab, directory, **options)
    else:
        bench = make(directory, **options)
    try:
        yield bench
    finally:
        bench.close()


@pytest.fixture(params=HYPERVISORS)
def hypervisor_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(request, tmp_path)


@pytest.fixture(params=DATASTORES)
def datastore_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(request, tmp_path)


@pytest.fixture(params=LOCAL_DATASTORES)
def local_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """With a datastore of which each host has a part of its own."""
    yield from _bench(request, tmp_path)


@pytest.fixture(params=TAGGED_NETWORKS)
def tagged_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """With a network whose guests send VLAN tags of their own."""
    yield from _bench(request, tmp_path)


@pytest.fixture(params=[*NETWORKS, *TAGGED_NETWORKS])
def network_bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    yield from _bench(request, tmp_path)
