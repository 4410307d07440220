"""What every network driver promises (drivers/contract.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drivers import registry
from tests.contract.bench import Bench
from tests.contract.threads import THREADS, at_once
from vdc.errors import DriverFailure, HostUnreachable, Invalid
from vdc.model import segment


@pytest.fixture
def bench(network_bench: Bench) -> Bench:
    return network_bench


def test_network_is_made_once(bench: Bench) -> None:
    network, vnet = bench.drivers.network, bench.vnet()
    network.ensure_network(vnet)
    assert network.ensure_network(vnet) is False
    assert sum(at_once(lambda _: network.ensure_network(vnet), range(THREADS))) == 0


def test_switch_that_leads_nowhere_is_refused(bench: Bench) -> None:
    network = bench.network_without_uplink()
    for _ in range(2):
        with pytest.raises(DriverFailure, match=f"{bench.host.name}.*contract"):
            network.ensure_network(bench.vnet())


def test_vlan_is_needed_exactly_where_the_capabilities_say(bench: Bench) -> None:
    network = bench.drivers.network
    wrong = [None, 0, 4095, -1] if network.capabilities.vlan else [100]
    for vlan_id in wrong:
        with pytest.raises(Invalid, match="VLAN"):
            network.ensure_network(replace(bench.vnet(), vlan_id=vlan_id))
    if network.capabilities.vlan:
        for vlan_id in (1, 4094):
            network.ensure_network(replace(bench.vnet(), vlan_id=vlan_id))


def test_attachment_needs_no_host_and_names_card_and_network(bench: Bench) -> None:
    machine = bench.machine()
    network = bench.on(bench.unreachable_host()).network
    attachment = network.attachment(machine.vnet, machine.nic)
    assert (attachment.device, attachment.mac) == (machine.nic.device, machine.nic.mac)
    assert attachment == bench.drivers.network.attachment(machine.vnet, machine.nic)


def test_ports_that_nobody_uses_are_seen_and_removed_once(bench: Bench) -> None:
    network = bench.drivers.network
    gone, stays = bench.device(), bench.device()
    bench.hand.plant_port(gone)
    bench.hand.plant_port(stays)
    assert {gone, stays} <= set(network.read_ports())
    assert network.ensure_ports_removed([bench.device(), gone])
    assert gone not in network.read_ports()
    assert stays in network.read_ports()
    assert not network.ensure_ports_removed([gone])
    assert not network.ensure_ports_removed([])


def test_ports_of_others_are_neither_listed_nor_removed(bench: Bench) -> None:
    network = bench.drivers.network
    bench.hand.plant_port("tap-of-others")
    assert all(port.startswith("vd") for port in network.read_ports())
    for device in ("tap-of-others", "eth0", "", "vd;reboot-0"):
        with pytest.raises(Invalid, match="not a network device"):
            network.ensure_ports_removed([device])


def test_port_of_a_machine_is_there_before_it_and_after_it(bench: Bench) -> None:
    machine, drivers = bench.machine(), bench.drivers
    bench.provide(machine)
    for change in (
        lambda: None,
        lambda: drivers.hypervisor.ensure_started(machine.spec.name, paused=True),
        lambda: drivers.hypervisor.ensure_removed(machine.spec.name),
    ):
        change()
        assert machine.nic.device in drivers.network.read_ports()
        assert drivers.network.read_unguarded([machine.nic]) == []
    assert drivers.network.ensure_ports_removed([machine.nic.device])
    assert machine.nic.device not in drivers.network.read_ports()


def test_ports_are_made_once_with_their_rules_and_again_where_these_were_taken_away(bench: Bench) -> None:
    network, nics = bench.drivers.network, [bench.machine().nic for _ in range(2)]
    devices = [nic.device for nic in nics]
    assert network.read_unguarded(nics) == devices
    assert [bench.plug_in(nic) for nic in nics] == [True, True]
    assert not network.ensure_ports(nics)
    assert network.read_unguarded(nics) == []
    assert set(devices) <= set(network.read_ports())

    bench.hand.loosen(devices[0])
    assert network.read_unguarded(nics) == devices[:1]
    assert network.ensure_ports(nics)
    assert network.read_unguarded(nics) == []

    moved = replace(nics[0], address="10.99.0.77")
    assert network.read_unguarded([moved]) == devices[:1], "its rules are another's"
    assert network.ensure_ports([moved])
    assert network.read_unguarded([moved, nics[1]]) == []

    assert network.ensure_ports_removed(devices)
    assert network.read_unguarded(nics) == devices
    assert not network.ensure_ports([])
    assert network.read_unguarded([]) == []


def test_a_port_that_lets_tags_through_is_not_taken_for_one_that_does_not(tagged_bench: Bench) -> None:
    bench, nic = tagged_bench, tagged_bench.machine().nic
    plain = replace(nic, vnet=replace(nic.vnet, uri=segment(nic.vnet.uri)))
    with_tags, without = bench.drivers.network, registry.network(plain.vnet.uri, bench.host, bench.access)
    assert bench.plug_in(nic)
    for driver, now, was in ((without, plain, nic), (with_tags, nic, plain)):
        assert driver.read_unguarded([now]) == [nic.device]
        driver.ensure_network(now.vnet)
        assert driver.ensure_ports([now])
        assert not driver.ensure_ports([now])
        assert driver.read_unguarded([now]) == []
        assert driver.read_unguarded([was]) == [nic.device]
    assert nic.device in without.read_ports()


def test_peers_are_told_once_and_again_where_a_way_to_one_was_cut(bench: Bench) -> None:
    network, vnet = bench.drivers.network, bench.vnet()
    one, other = "10.77.0.12", "10.77.0.13"
    if not network.capabilities.peers:
        assert not network.ensure_peers([one])
        assert network.read_peers_amiss([one]) == []
        return
    network.ensure_peers([])
    network.ensure_network(vnet)
    assert network.read_peers_amiss([]) == []
    assert network.read_peers_amiss([one, other]) == [one, other]
    assert network.ensure_peers([one, other])
    assert not network.ensure_peers([other, one])
    network.ensure_network(replace(vnet, vlan_id=101))
    assert network.read_peers_amiss([one, other]) == [], "a network that comes later has them too"
    assert network.read_peers_amiss([one]) == [other]

    bench.hand.forget_peer(one)
    assert network.read_peers_amiss([one, other]) == [one]
    assert network.ensure_peers([one, other])
    assert network.read_peers_amiss([one, other]) == []
    assert network.ensure_peers([other]), "the host is gone"
    assert network.read_peers_amiss([other]) == []
    at_once(lambda _: network.ensure_peers([one]), range(THREADS))
    assert network.read_peers_amiss([one]) == []


def test_ports_of_what_is_no_card_of_ours_are_not_made(bench: Bench) -> None:
    network, nic = bench.drivers.network, bench.machine().nic
    network.ensure_network(nic.vnet)
    with pytest.raises(Invalid, match="not a network device"):
        network.ensure_ports([replace(nic, device="eth0")])


def test_threads_make_ports_side_by_side(bench: Bench) -> None:
    network, nics = bench.drivers.network, [bench.machine().nic for _ in range(THREADS)]
    assert all(at_once(bench.plug_in, nics))
    assert network.read_unguarded(nics) == []


def test_threads_remove_ports_side_by_side(bench: Bench) -> None:
    network = bench.drivers.network
    devices = [bench.device() for _ in range(THREADS)]
    for device in devices:
        bench.hand.plant_port(device)
    assert all(at_once(lambda device: network.ensure_ports_removed([device]), devices))
    assert not set(devices) & set(network.read_ports())


def test_threads_that_remove_the_same_port_do_not_stumble(bench: Bench) -> None:
    network, device = bench.drivers.network, bench.device()
    bench.hand.plant_port(device)
    assert any(at_once(lambda _: network.ensure_ports_removed([device]), range(THREADS)))
    assert device not in network.read_ports()


def test_host_that_does_not_answer_is_unreachable(bench: Bench) -> None:
    network = bench.on(bench.unreachable_host()).network
    tunnels = network.capabilities.peers
    for call in (
        network.read_ports,
        lambda: network.ensure_network(bench.vnet()),
        lambda: network.ensure_ports_removed([bench.device()]),
        lambda: network.ensure_ports([bench.machine().nic]),
        lambda: network.read_unguarded([bench.machine().nic]),
        *([lambda: network.ensure_peers([]), lambda: network.read_peers_amiss([])] * tunnels),
    ):
        with pytest.raises(HostUnreachable, match=bench.unreachable_host().name):
            call()
