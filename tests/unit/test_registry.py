"""The right driver for a URI, one per process, loaded no earlier than needed."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from drivers import registry
from drivers.contract import Access
from drivers.datastore.qcow2 import Qcow2Datastore
from drivers.datastore.raw import RawDatastore
from drivers.network.bridge import BridgeNetwork
from drivers.network.vlan import VlanNetwork
from drivers.simulated import Simulation
from vdc.errors import Invalid
from vdc.model import HostRef

ACCESS = Access(Path("/nowhere/id"), Path("/nowhere/known_hosts"))
HOST = HostRef("h1", "qemu+ssh://root@127.0.0.1:1/system")


def test_scheme_decides() -> None:
    assert isinstance(registry.datastore("qcow2:///srv/vdc", HOST, ACCESS), Qcow2Datastore)
    assert isinstance(registry.datastore("raw:///srv/vdc", HOST, ACCESS), RawDatastore)
    assert isinstance(registry.network("vlan://ovsbr0", HOST, ACCESS), VlanNetwork)
    assert isinstance(registry.network("bridge://br0", HOST, ACCESS), BridgeNetwork)
    assert registry.hypervisor(HOST, ACCESS).capabilities.live_migration


def test_simulated(tmp_path: Path) -> None:
    simulation = Simulation.create(tmp_path / "dc.db", hosts=["h1"])

    hypervisor = registry.hypervisor(simulation.host("h1"), ACCESS)

    assert hypervisor.read_facts().hostname == "h1"


def test_one_object_for_the_same_question() -> None:
    first = registry.datastore("qcow2:///srv/vdc", HOST, ACCESS)

    assert registry.datastore("qcow2:///srv/vdc", HOST, ACCESS) is first
    assert registry.datastore("qcow2:///srv/other", HOST, ACCESS) is not first
    assert registry.datastore("qcow2:///srv/vdc", HostRef("h2", HOST.uri), ACCESS) is not first


def test_child_of_a_fork_has_its_own_objects() -> None:
    first = registry.hypervisor(HOST, ACCESS)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()

    child = context.Process(target=lambda: queue.put(registry.hypervisor(HOST, ACCESS) is first))
    child.start()
    child.join(20)

    assert queue.get() is False


@pytest.mark.parametrize("uri", ["", "ceph://h/x", "/srv/vdc", "QCOW:///srv"])
def test_unknown_scheme_names_the_known_ones(uri: str) -> None:
    with pytest.raises(Invalid, match="should be one of local, nfs, qcow2, raw, simulated"):
        registry.datastore(uri, HOST, ACCESS)
    with pytest.raises(Invalid, match="should be one of bridge, simulated, vlan"):
        registry.network(uri, HOST, ACCESS)
    with pytest.raises(Invalid, match=r"should be one of qemu\+ssh, simulated"):
        registry.hypervisor(HostRef("h1", uri), ACCESS)


@pytest.mark.parametrize(
    "uri",
    ["qcow2://", "qcow2:///", "qcow2://srv/vdc", "qcow2:srv", "qcow2:///srv/../etc", "raw:///a/..", "raw:"],
)
def test_datastore_without_an_absolute_directory(uri: str) -> None:
    with pytest.raises(Invalid, match="absolute directory"):
        registry.datastore(uri, HOST, ACCESS)


@pytest.mark.parametrize(
    "uri",
    [
        "nfs:///srv/vdc",
        "nfs://h",
        "nfs://h/",
        "nfs://h/a/../b",
        "nfs://h/a b",
        "nfs://h/a?uid=0",
        "nfs://me@h/a",
        "nfs://h:2049/a",
    ],
)
def test_datastore_on_a_file_server_needs_both(uri: str) -> None:
    with pytest.raises(Invalid, match="a file server and a directory that it exports"):
        registry.datastore(uri, HOST, ACCESS)


def test_datastore_on_a_file_server_names_files_as_qemu_does() -> None:
    made = registry.datastore("nfs://files.example/export/vdc/", HOST, ACCESS)
    assert made.path("vm-a") == "nfs://files.example/export/vdc/vm-a"
    assert (made.capabilities.shared, made.capabilities.locked) == (True, False)


@pytest.mark.parametrize("scheme", ["qcow2", "raw"])
def test_datastore_says_whether_hosts_share_it(scheme: str) -> None:
    def shared(query: str) -> bool:
        uri = f"{scheme}:///srv/vdc{query}"
        made = registry.datastore(uri, HOST, ACCESS)
        assert made.capabilities == registry.datastore_capabilities(uri)
        assert made.path("a") == "/srv/vdc/a"
        return made.capabilities.shared

    assert shared("")
    assert shared("?shared=yes")
    assert not shared("?shared=no")
    with pytest.raises(Invalid, match="shared=no"):
        shared("?shard=no")


@pytest.mark.parametrize(
    "uri", ["vlan://", "vlan:///br0", "vlan://-x", "vlan://a;b", "bridge://sixteen-letters-x"]
)
def test_network_without_a_bridge(uri: str) -> None:
    with pytest.raises(Invalid, match="should name a bridge"):
        registry.network(uri, HOST, ACCESS)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("vlan://br0?qinq=802.1x", "should be 802.1ad or 802.1q"),
        ("vlan://br0?qinq=802.1q&qinq=802.1ad", "should be 802.1ad or 802.1q"),
        ("vlan://br0?tags=2", "tags=2, which vlan:// does not know"),
        ("bridge://br0?qinq=802.1ad", "which bridge:// does not know"),
    ],
)
def test_network_with_an_option_that_means_nothing(uri: str, why: str) -> None:
    for ask in (registry.network_capabilities, lambda of: registry.network(of, HOST, ACCESS)):
        with pytest.raises(Invalid, match=why):
            ask(uri)


def test_drivers_are_loaded_when_used() -> None:
    code = "import sys, drivers.registry; print({'libvirt', 'paramiko', 'lxml'} & set(sys.modules))"

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout == "set()\n"
