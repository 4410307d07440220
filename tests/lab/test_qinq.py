"""Guests' own VLAN tags inside of their network's, frame by frame; no guest is started."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.lab.wire import Ports, arp, udp
from vdc.model import Rule, VnetSpec

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]

URI = "vlan://ovsbr0?qinq={}"
OPEN = (Rule("in", "any"), Rule("out", "any"))


@pytest.mark.parametrize("around", ["802.1ad", "802.1q"])
def test_a_tenants_tags_stay_inside_of_its_network(ports: Ports, around: str) -> None:
    vnet = VnetSpec("q", "q", URI.format(around), 330, "10.8.0.0/24")
    other = replace(vnet, vlan_id=331)
    one, me = ports.plug("h1", vnet, "02:00:0a:08:00:01", "10.8.0.1")
    near, its = ports.plug("h1", vnet, "02:00:0a:08:00:02", "10.8.0.2")
    far, their = ports.plug("h2", vnet, "02:00:0a:08:00:03", "10.8.0.3")
    guarded, filtered = ports.plug("h2", vnet, "02:00:0a:08:00:04", "10.8.0.4", OPEN)
    stranger, _ = ports.plug("h2", other, their[0], their[1])

    own_inside = ("02:00:0a:08:00:01", "192.168.7.1")
    to_near = udp(own_inside, (its[0], "192.168.7.2"), "near", 7)
    to_far = udp(own_inside, (their[0], "192.168.7.3"), "far", 7)
    # The address that it asks for inside is that of the filtered card outside: another's.
    ask = arp(own_inside, filtered[1], 7)
    forged = udp(("02:66:66:66:66:66", "192.168.7.1"), (their[0], "192.168.7.3"), "forged", 7)
    spoofed = udp((me[0], "10.8.0.99"), their, "spoofed")
    to_guarded = udp(own_inside, filtered, "tagged", 7)
    for frame in (to_near, to_far, ask, forged, spoofed, to_guarded):
        one.send(frame)
    last_near, last_far, last_guarded = (udp(me, to, "last") for to in (its, their, filtered))
    for frame in (last_near, last_far, last_guarded):
        one.send(frame)
    assert near.until(last_near) == [to_near, ask]
    assert far.until(last_far) == [to_far, ask]
    assert guarded.until(last_guarded) == [], "a card in a group has no part in what is tagged"

    tagged_back, last_back = udp(filtered, me, "tagged", 7), udp(filtered, me, "last")
    guarded.send(tagged_back)
    guarded.send(last_back)
    assert one.until(last_back) == []
    sibling, sister = ports.plug("h1", other, "02:00:0a:08:00:05", "10.8.0.5")
    end = udp(sister, their, "end")
    sibling.send(end)
    assert stranger.until(end) == [], "another network's, of the same addresses"


def test_a_card_on_a_plain_vlan_sends_no_tags_beside_one_that_does(ports: Ports) -> None:
    plain = VnetSpec("p", "p", "vlan://ovsbr0", 332, "10.8.0.0/24")
    ports.plug("h1", replace(plain, uri=URI.format("802.1ad"), vlan_id=333), "02:00:0a:08:00:09", "10.8.0.9")
    one, me = ports.plug("h1", plain, "02:00:0a:08:00:01", "10.8.0.1")
    far, their = ports.plug("h2", plain, "02:00:0a:08:00:03", "10.8.0.3")
    one.send(udp(me, their, "tagged", 333))
    last = udp(me, their, "last")
    one.send(last)
    assert far.until(last) == []
