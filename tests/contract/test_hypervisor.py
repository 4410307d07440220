"""What every hypervisor promises (drivers/contract.py)."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from tests.contract.bench import Bench
from tests.contract.threads import THREADS, at_once
from vdc.errors import DriverFailure, HostUnreachable, NotFound
from vdc.model import DomainSeen, domain_name


@pytest.fixture
def bench(hypervisor_bench: Bench) -> Bench:
    return hypervisor_bench


def state(bench: Bench, name: str) -> str | None:
    seen = bench.drivers.hypervisor.read_domain(name)
    return seen.state if seen else None


def test_facts_describe_a_host_that_can_run_machines(bench: Bench) -> None:
    facts = bench.drivers.hypervisor.read_facts()
    assert bench.host.domain_type in facts.domain_types
    assert facts.arch == bench.host.arch
    assert facts.vcpu >= 1
    assert facts.memory_mib >= 64
    assert facts.load_1m >= 0
    assert str(uuid.UUID(facts.host_uuid)) == facts.host_uuid.lower()
    assert facts.hostname
    assert facts.hypervisor_version


def test_use_follows_what_runs(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    bench.provide(machine)
    before = hypervisor.read_use()
    assert hypervisor.ensure_started(machine.spec.name, paused=True)
    after = hypervisor.read_use()
    assert before.machines is not None
    assert after.machines == before.machines + 1
    assert after.load_1m >= 0
    if before.cpu_busy_s is None:  # a simulated host
        assert (before.cpu_total_s, before.memory_used_mib, before.memory_mib) == (None, None, None)
        return
    assert after.cpu_busy_s is not None
    assert after.cpu_total_s is not None
    assert before.cpu_busy_s < after.cpu_busy_s <= after.cpu_total_s
    assert after.memory_used_mib is not None
    assert 0 < after.memory_used_mib < (after.memory_mib or 0)
    hypervisor.ensure_removed(machine.spec.name)
    assert hypervisor.read_use().machines == before.machines


def test_defined_once_it_is_seen_as_ours_and_stopped(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    assert hypervisor.read_domain(machine.spec.name) is None
    assert hypervisor.ensure_defined(machine.spec)
    assert not hypervisor.ensure_defined(machine.spec)
    seen = DomainSeen(machine.spec.name, "stopped", machine.vm_id, machine.spec.site)
    assert hypervisor.read_domain(machine.spec.name) == seen
    assert hypervisor.read_domains().count(seen) == 1


def test_another_description_replaces_the_first(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    larger = replace(machine.spec, memory_mib=48)
    hypervisor.ensure_defined(machine.spec)
    assert hypervisor.ensure_defined(larger)
    assert not hypervisor.ensure_defined(larger)
    assert [seen.name for seen in hypervisor.read_domains()].count(machine.spec.name) == 1


def test_names_and_ids_that_are_taken_are_refused(bench: Bench) -> None:
    hypervisor, first, second = bench.drivers.hypervisor, bench.machine(), bench.machine()
    hypervisor.ensure_defined(first.spec)
    for spec in (replace(first.spec, name=second.spec.name), replace(second.spec, name=first.spec.name)):
        with pytest.raises(DriverFailure, match=first.spec.name) as refused:
            hypervisor.ensure_defined(spec)
        assert refused.value.host == bench.host.name
    names = [seen.name for seen in hypervisor.read_domains()]
    assert first.spec.name in names
    assert second.spec.name not in names


def test_impossible_domain_type_is_refused(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine(domain_type="xen")
    with pytest.raises(DriverFailure):
        hypervisor.ensure_defined(machine.spec)
    assert hypervisor.read_domain(machine.spec.name) is None


def test_texts_are_taken_literally(bench: Bench) -> None:
    odd = """<a href="x">&amp;'%s$(id)'</a> ü"""
    hypervisor, machine = bench.drivers.hypervisor, bench.machine(vm_name=odd, tenant=odd, site=odd)
    assert hypervisor.ensure_defined(machine.spec)
    assert not hypervisor.ensure_defined(machine.spec)
    seen = hypervisor.read_domain(machine.spec.name)
    assert seen is not None
    assert (seen.vm_id, seen.site) == (machine.vm_id, odd)


def test_started_paused_then_resumed(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    bench.provide(machine)
    name = machine.spec.name
    assert hypervisor.ensure_started(name, paused=True)
    assert state(bench, name) == "paused"
    assert not hypervisor.ensure_started(name, paused=True)
    assert hypervisor.ensure_started(name)
    assert state(bench, name) == "running"
    assert not hypervisor.ensure_started(name)
    assert not hypervisor.ensure_started(name, paused=True)  # a running machine is not stopped by this
    assert state(bench, name) == "running"
    assert not hypervisor.ensure_defined(machine.spec)


@pytest.mark.parametrize("missing", ["disk", "image", "seed"])
def test_start_without_its_files_fails_and_works_once_they_are_there(bench: Bench, missing: str) -> None:
    drivers, machine = bench.drivers, bench.machine()
    bench.provide(machine)
    file = {"disk": machine.disk.file, "image": bench.image.file, "seed": machine.seed}[missing]
    drivers.datastore.ensure_removed([file])
    with pytest.raises(DriverFailure, match=file) as failed:
        drivers.hypervisor.ensure_started(machine.spec.name, paused=True)
    assert failed.value.host == bench.host.name
    assert state(bench, machine.spec.name) == "stopped"
    bench.provide(machine)
    assert drivers.hypervisor.ensure_started(machine.spec.name, paused=True)


def test_start_without_its_port_fails(bench: Bench) -> None:
    """Nobody makes one that has no rules."""
    drivers, machine = bench.drivers, bench.machine()
    bench.provide(machine)
    drivers.network.ensure_ports_removed([machine.nic.device])
    with pytest.raises(DriverFailure, match="dev doesn't exist"):
        drivers.hypervisor.ensure_started(machine.spec.name, paused=True)
    assert state(bench, machine.spec.name) == "stopped"
    bench.plug_in(machine.nic)
    assert drivers.hypervisor.ensure_started(machine.spec.name, paused=True)


def test_unknown_domain_cannot_be_started_and_need_not_be_removed(bench: Bench) -> None:
    hypervisor, name = bench.drivers.hypervisor, domain_name(str(uuid.uuid4()))
    with pytest.raises(NotFound, match=name):
        hypervisor.ensure_started(name)
    assert hypervisor.read_domain(name) is None
    assert hypervisor.ensure_removed(name) is False


@pytest.mark.parametrize("started", ["stopped", "paused", "running"])
def test_removed_whatever_its_state_and_can_be_made_again(bench: Bench, started: str) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    name = machine.spec.name
    for _ in range(2):
        bench.provide(machine)
        if started != "stopped":
            hypervisor.ensure_started(name, paused=started == "paused")
        assert state(bench, name) == started
        assert hypervisor.ensure_removed(name)
        assert not hypervisor.ensure_removed(name)
        assert hypervisor.read_domain(name) is None
        assert name not in [seen.name for seen in hypervisor.read_domains()]


def test_files_in_use_can_be_removed_under_a_running_machine(bench: Bench) -> None:
    drivers, machine = bench.drivers, bench.machine()
    bench.provide(machine)
    drivers.hypervisor.ensure_started(machine.spec.name, paused=True)
    assert drivers.datastore.ensure_removed([machine.disk.file, machine.seed])
    assert state(bench, machine.spec.name) == "paused"
    assert drivers.hypervisor.ensure_removed(machine.spec.name)


def test_domains_of_others_are_seen_but_never_removed(bench: Bench) -> None:
    hypervisor, name = bench.drivers.hypervisor, f"theirs-{uuid.uuid4()}"
    bench.hand.plant_domain(name)
    assert hypervisor.read_domain(name) == DomainSeen(name, "stopped")
    assert DomainSeen(name, "stopped") in hypervisor.read_domains()
    with pytest.raises(DriverFailure, match="not ours"):
        hypervisor.ensure_removed(name)
    assert hypervisor.read_domain(name) is not None


def test_counters_of_what_runs_only_grow(bench: Bench) -> None:
    hypervisor, machine, stopped = bench.drivers.hypervisor, bench.machine(), bench.machine()
    bench.provide(machine)
    bench.provide(stopped)
    hypervisor.ensure_started(machine.spec.name)
    first, second = ({c.name: c for c in hypervisor.read_counters()} for _ in range(2))
    assert stopped.spec.name not in first
    mine, later = first[machine.spec.name], second[machine.spec.name]
    assert (mine.vm_id, mine.site) == (machine.vm_id, machine.spec.site)
    for counter in ("cpu_s", "disk_read_bytes", "disk_write_bytes", "net_rx_bytes", "net_tx_bytes"):
        assert 0 <= getattr(mine, counter) <= getattr(later, counter)
    hypervisor.ensure_removed(machine.spec.name)
    assert machine.spec.name not in [c.name for c in hypervisor.read_counters()]


def test_threads_that_want_the_same_machine_agree(bench: Bench) -> None:
    hypervisor, machine = bench.drivers.hypervisor, bench.machine()
    bench.provide(machine)
    name = machine.spec.name
    at_once(lambda _: hypervisor.ensure_defined(machine.spec), range(THREADS))
    assert sum(at_once(lambda _: hypervisor.ensure_started(name, paused=True), range(THREADS))) == 1
    assert state(bench, name) == "paused"
    assert any(at_once(lambda _: hypervisor.ensure_removed(name), range(THREADS)))
    assert hypervisor.read_domain(name) is None


def test_threads_make_and_remove_machines_side_by_side(bench: Bench) -> None:
    drivers, machines = bench.drivers, [bench.machine() for _ in range(THREADS)]
    for machine in machines:
        bench.provide(machine)
    names = [machine.spec.name for machine in machines]
    assert all(at_once(lambda name: drivers.hypervisor.ensure_started(name, paused=True), names))
    assert {seen.name: seen.state for seen in drivers.hypervisor.read_domains() if seen.name in names} == (
        dict.fromkeys(names, "paused")
    )
    assert all(at_once(drivers.hypervisor.ensure_removed, names))


def test_two_hosts_may_hold_a_machine_of_the_same_name(bench: Bench) -> None:
    machine, there = bench.machine(), bench.on(bench.second_host()).hypervisor
    bench.drivers.hypervisor.ensure_defined(machine.spec)
    assert there.read_domain(machine.spec.name) is None
    try:
        assert there.ensure_defined(machine.spec)
        assert bench.drivers.hypervisor.ensure_removed(machine.spec.name)
        assert there.read_domain(machine.spec.name) is not None
    finally:
        there.ensure_removed(machine.spec.name)


def test_host_that_does_not_answer_is_unreachable(bench: Bench) -> None:
    hypervisor = bench.on(bench.unreachable_host()).hypervisor
    for call in (
        hypervisor.read_facts,
        hypervisor.read_domains,
        hypervisor.read_counters,
        hypervisor.read_use,
        lambda: hypervisor.ensure_defined(bench.machine().spec),
        lambda: hypervisor.ensure_started("vm-a"),
        lambda: hypervisor.ensure_removed("vm-a"),
    ):
        with pytest.raises(HostUnreachable, match=bench.unreachable_host().name):
            call()
