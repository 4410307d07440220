"""The simulated datacenter's own promises: faults, gates and latency that all processes obey, refusals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from drivers.contract import Access
from drivers.simulated import Simulation, Store, datastore, host_facts, hypervisor, network
from vdc.errors import Busy, Conflict, DriverFailure, HostUnreachable, Invalid, NotFound, TimedOut
from vdc.model import (
    DiskAttachment,
    DiskSpec,
    DomainSpec,
    HostRef,
    ImageSpec,
    NicSpec,
    VnetSpec,
    disk_file,
    domain_name,
    nic_device,
    seed_file,
)

VM = "6f0c1a52-0000-4000-8000-000000000001"
ACCESS = Access(Path("key"), Path("known_hosts"), call_timeout_s=5.0)
IMAGE = ImageSpec("i1", "image-i1.qcow2", "qcow2", 8)
DEADLINE_S = 30.0


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[Simulation]:
    simulation = Simulation.create(tmp_path / "a dc?.db", ["h1", "h2"])
    yield simulation
    simulation.delete()


class Machine:
    """One machine on one host, step by step."""

    def __init__(self, sim: Simulation, host: str = "h1", vm_id: str = VM) -> None:
        ref = sim.host(host)
        self.hypervisor = hypervisor(ref, ACCESS)
        self.datastore = datastore(sim.datastore_uri(), ref, ACCESS)
        self.network = network(sim.network_uri(), ref, ACCESS)
        self.vnet = VnetSpec("n1", "blue", sim.network_uri(), 100, "10.0.0.0/24")
        self.nic = NicSpec(0, self.vnet, nic_device(vm_id, 0), "52:54:00:00:00:01", "10.0.0.5")
        self.disk = DiskSpec(0, sim.datastore_uri(), disk_file(vm_id, 0, "qcow2"), "qcow2", 16, IMAGE)
        self.seed = seed_file(vm_id)
        self.spec = DomainSpec(
            name=domain_name(vm_id),
            vm_id=vm_id,
            vm_name="web",
            tenant="acme",
            site="s1",
            domain_type="kvm",
            arch="x86_64",
            vcpu=1,
            memory_mib=64,
            disks=(DiskAttachment(self.datastore.path(self.disk.file), "qcow2"),),
            seed_path=self.datastore.path(self.seed),
            nics=(self.network.attachment(self.vnet, self.nic),),
        )

    def deploy(self, source: Path) -> None:
        source.write_bytes(b"image")
        self.datastore.ensure_image(IMAGE, source)
        self.datastore.ensure_disk(self.disk)
        self.datastore.ensure_seed(self.seed, b"seed")
        self.network.ensure_network(self.vnet)
        self.network.ensure_ports([self.nic])
        self.hypervisor.ensure_defined(self.spec)
        self.hypervisor.ensure_started(self.spec.name)

    def remove(self) -> None:
        self.hypervisor.ensure_removed(self.spec.name)
        self.network.ensure_ports_removed([self.nic.device])
        self.datastore.ensure_removed([self.disk.file, self.seed])


def in_other_process(sim: Simulation, code: str) -> subprocess.Popen[bytes]:
    """Run `code` with `h`, the driver of h1, in a process of its own."""
    program = (
        "from pathlib import Path\nfrom drivers.contract import Access\nfrom drivers.simulated import *\n"
        f"from vdc.model import HostRef\nh = hypervisor(HostRef('h1', {sim.host('h1').uri!r}),"
        f" Access(Path('k'), Path('h')))\n{code}\n"
    )
    checkout = Path(__file__).resolve().parents[2]
    return subprocess.Popen([sys.executable, "-c", program], cwd=checkout)


@pytest.mark.parametrize("how", ["before", "halfway", "after"])
@pytest.mark.parametrize("step", range(1, 8))
def test_whatever_step_of_a_deployment_fails_teardown_restores_the_baseline(
    sim: Simulation, tmp_path: Path, step: int, how: str
) -> None:
    machine = Machine(sim)
    sim.fail_at(step, after=how == "after", halfway=how == "halfway")
    if how == "halfway":  # a call without a middle succeeds
        with contextlib.suppress(DriverFailure):
            machine.deploy(tmp_path / "image")
    else:
        with pytest.raises(DriverFailure) as failed:
            machine.deploy(tmp_path / "image")
        assert (failed.value.host, sim.call_count()) == ("h1", step)
        assert sim.log()[-1].error == "DriverFailure"
    machine.remove()
    machine.datastore.ensure_removed([IMAGE.file])
    assert sim.snapshot_state() == {"domains": {}, "files": {}, "ports": {}}


def test_failure_after_a_call_keeps_its_effect_and_before_a_call_has_none(sim: Simulation) -> None:
    machine = Machine(sim)
    sim.fail_next("ensure_defined", error="TimedOut")
    sim.fail_next("hypervisor.ensure_defined", error="Busy", after=True)
    with pytest.raises(TimedOut):
        machine.hypervisor.ensure_defined(machine.spec)
    assert machine.hypervisor.read_domains() == []
    with pytest.raises(Busy):
        machine.hypervisor.ensure_defined(machine.spec)
    assert machine.hypervisor.ensure_defined(machine.spec) is False
    assert sim.pending_faults() == 0


def test_fault_for_one_host_spares_the_others_and_counts_down(sim: Simulation) -> None:
    one, two = (hypervisor(sim.host(name), ACCESS) for name in ("h1", "h2"))
    sim.fail_next("read_domains", times=2, error="HostUnreachable", host="h2")
    one.read_domains()
    for _ in range(2):
        with pytest.raises(HostUnreachable):
            two.read_domains()
    two.read_domains()


def test_mistyped_faults_are_refused(sim: Simulation) -> None:
    with pytest.raises(Invalid, match="ensure_started"):
        sim.fail_next("clone")
    with pytest.raises(Invalid, match="DriverFailure"):
        sim.fail_next("*", error="QuotaExceeded")


def test_start_is_refused_until_disk_backing_seed_and_network_are_there(
    sim: Simulation, tmp_path: Path
) -> None:
    machine = Machine(sim)
    machine.hypervisor.ensure_defined(machine.spec)
    source = tmp_path / "image"
    source.write_bytes(b"image")
    repairs: list[Callable[[], bool]] = [
        lambda: machine.datastore.ensure_image(IMAGE, source) and machine.datastore.ensure_disk(machine.disk),
        lambda: machine.datastore.ensure_seed(machine.seed, b"seed"),
        lambda: machine.network.ensure_network(machine.vnet) and machine.network.ensure_ports([machine.nic]),
        lambda: machine.datastore.ensure_removed([IMAGE.file]),
        lambda: machine.datastore.ensure_image(IMAGE, source),
    ]
    complaints = ["disk0", "seed", machine.nic.device, "", "image-i1"]
    for complaint, repair in zip(complaints, repairs, strict=True):
        if complaint:
            with pytest.raises(DriverFailure, match=complaint):
                machine.hypervisor.ensure_started(machine.spec.name)
        assert repair()
    assert machine.hypervisor.ensure_started(machine.spec.name)
    assert machine.network.read_ports() == [machine.nic.device]


def test_a_host_that_is_down_cannot_be_reached_and_its_domains_live_or_die(
    sim: Simulation, tmp_path: Path
) -> None:
    machine = Machine(sim)
    machine.deploy(tmp_path / "image")
    sim.host_down("h1")
    for call in (machine.hypervisor.read_facts, machine.datastore.read_files, machine.network.read_ports):
        with pytest.raises(HostUnreachable, match="h1"):
            call()
    sim.host_up("h1")
    seen = machine.hypervisor.read_domain(machine.spec.name)
    assert seen
    assert seen.state == "running"
    sim.host_down("h1", domains="die")
    sim.host_up("h1")
    seen = machine.hypervisor.read_domain(machine.spec.name)
    assert seen
    assert (seen.state, machine.network.read_ports()) == ("stopped", [])


def test_guests_that_stop_or_crash_keep_their_ports_and_start_again(sim: Simulation, tmp_path: Path) -> None:
    machine = Machine(sim)
    machine.deploy(tmp_path / "image")
    for hurt, state in ((sim.guest_shutdown, "stopped"), (sim.crash, "crashed")):
        hurt(machine.spec.name)
        assert sim.snapshot_state()["domains"] == {"h1": {machine.spec.name: state}}
        assert machine.network.read_ports() == [machine.nic.device]
        assert machine.hypervisor.ensure_started(machine.spec.name)
    with pytest.raises(NotFound):
        sim.crash("vm-nobody")


def test_the_same_domain_may_run_on_two_hosts(sim: Simulation, tmp_path: Path) -> None:
    Machine(sim, "h1").deploy(tmp_path / "image")
    Machine(sim, "h2").deploy(tmp_path / "image")
    assert sim.snapshot_state()["domains"] == {h: {domain_name(VM): "running"} for h in ("h1", "h2")}


def test_a_local_datastore_has_other_files_on_every_host_and_a_full_one_refuses(tmp_path: Path) -> None:
    stores = [Store("local", shared=False, disk_format="raw", capacity_mib=20)]
    sim = Simulation.create(tmp_path / "dc.db", ["h1", "h2"], stores)
    one, two = (datastore(sim.datastore_uri("local"), sim.host(name), ACCESS) for name in ("h1", "h2"))
    disk = DiskSpec(0, sim.datastore_uri("local"), "vm-a-disk0.raw", "raw", 16)
    assert one.ensure_disk(disk)
    assert (one.read_use().free_mib, two.read_use().free_mib) == (4, 20)
    with pytest.raises(DriverFailure, match="No space left"):
        one.ensure_disk(replace(disk, file="vm-b-disk0.raw"))
    assert two.read_files() == {}
    sim.set_writable("local", False)
    with pytest.raises(DriverFailure, match="Read-only"):
        two.ensure_writable()


def test_latency_is_the_same_for_the_same_call_and_longer_than_the_deadline_is_a_timeout(
    sim: Simulation,
) -> None:
    driver = hypervisor(sim.host("h1"), Access(Path("k"), Path("h"), call_timeout_s=0.05))
    sim.set_latency("read_facts", 0.02)
    before = time.monotonic()
    driver.read_facts()
    assert time.monotonic() - before >= 0.02
    sim.set_latency("*", 10.0, host="h1")
    driver.read_facts()  # its own latency is more specific
    with pytest.raises(TimedOut):
        driver.read_domains()
    sim.clear()
    assert driver.read_domains() == []


def test_a_process_killed_at_a_gate_did_everything_before_it_and_nothing_after(sim: Simulation) -> None:
    sim.hold("read_domain", skip=1)
    child = in_other_process(sim, "h.read_facts(); h.read_domain('a'); h.read_domain('b')")
    try:
        (held,) = sim.wait_until_held(DEADLINE_S)
        assert (held.pid, held.call, held.subject) == (child.pid, "hypervisor.read_domain", "b")
    finally:
        child.kill()
        child.wait(DEADLINE_S)
    sim.release("read_domain")
    assert [(c.pid, c.call, c.subject) for c in sim.log()] == [
        (child.pid, "hypervisor.read_facts", ""),
        (child.pid, "hypervisor.read_domain", "a"),
    ]
    assert sim.held() == []


def test_a_process_goes_on_when_its_gate_opens_even_after_being_stopped(sim: Simulation) -> None:
    sim.hold("*", host="h1")
    child = in_other_process(sim, "h.read_facts(); h.read_domains()")
    try:
        sim.wait_until_held(DEADLINE_S)
        os.kill(child.pid, signal.SIGSTOP)
        assert hypervisor(sim.host("h2"), ACCESS).read_domains() == []  # it holds no lock
        sim.release("*")
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(DEADLINE_S) == 0
    finally:
        child.kill()
        child.wait(DEADLINE_S)
    assert [c.call for c in sim.log() if c.pid == child.pid] == [
        "hypervisor.read_facts",
        "hypervisor.read_domains",
    ]


def test_a_gate_nobody_opens_times_out(sim: Simulation) -> None:
    sim.hold("read_facts", deadline_s=0.01)
    with pytest.raises(TimedOut, match="never released"):
        hypervisor(sim.host("h1"), ACCESS).read_facts()
    with pytest.raises(TimeoutError, match="of 2 calls"):
        sim.wait_until_held(0.01, count=2)


def test_faults_are_counted_across_processes(sim: Simulation) -> None:
    sim.fail_at(3)
    child = in_other_process(sim, "h.read_facts(); h.read_facts()")
    assert child.wait(DEADLINE_S) == 0
    with pytest.raises(DriverFailure):
        hypervisor(sim.host("h1"), ACCESS).read_facts()


def test_a_forked_child_gets_a_connection_of_its_own(sim: Simulation) -> None:
    driver = hypervisor(sim.host("h1"), ACCESS)
    driver.read_facts()
    child = os.fork()
    if child == 0:
        try:
            driver.read_domain("child")
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    driver.read_domain("parent")
    assert [(c.pid, c.subject) for c in sim.log()[1:]] == [(child, "child"), (os.getpid(), "parent")]


def test_a_thousand_hosts_are_made_at_once_and_a_call_costs_less_than_a_millisecond(tmp_path: Path) -> None:
    before = time.monotonic()
    sim = Simulation.create(tmp_path / "dc.db", [host_facts(f"h{i}", vcpu=64) for i in range(1000)])
    assert time.monotonic() - before < 5
    driver = hypervisor(sim.host("h999"), ACCESS)
    assert driver.read_facts().vcpu == 64
    before = time.process_time()
    for _ in range(500):
        driver.read_domain("vm-x")
    assert (time.process_time() - before) / 500 < 0.001


def test_what_is_not_there_is_said(sim: Simulation, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        Simulation.create(sim.path)
    with pytest.raises(HostUnreachable, match="no such host"):
        hypervisor(sim.host("h9"), ACCESS).read_facts()
    missing = f"simulated://{tmp_path}/none.db?host=h1"
    with pytest.raises(HostUnreachable, match=r"none\.db"):
        hypervisor(HostRef("h1", missing), ACCESS).read_facts()
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(Invalid, match="host=NAME"):
        hypervisor(HostRef("h1", "simulated://relative.db"), ACCESS)
    with pytest.raises(Invalid, match="nowhere"):
        datastore(sim.datastore_uri("nowhere"), sim.host("h1"), ACCESS)
