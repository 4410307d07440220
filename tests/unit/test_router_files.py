"""What a router is told: rules that nft takes, leases and names, and which frames its cards may send."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from drivers import router
from drivers.network import firewall, openflow
from drivers.seed import seed_files
from vdc.model import ContextSpec, Forward, Lease, NicSpec, RouterSpec, VnetSpec

NET = VnetSpec("id", "acme-net", "vlan://ovsbr0", 7, "10.20.0.0/24", "10.20.0.1")
CARD = NicSpec(1, NET, "vd0123456789-1", "02:01:0a:14:00:01", "10.20.0.1", routes=True)
SPEC = RouterSpec(
    cidr="10.20.0.0/24",
    address="10.20.0.1",
    public_address="203.0.113.10",
    domain="acme.internal",
    resolvers=("203.0.113.53",),
    time_servers=("203.0.113.123",),
    leases=(Lease("web-1", "02:00:0a:14:00:05", "10.20.0.5"),),
    forwards=(Forward("tcp", 8080, "10.20.0.5", 80),),
)


def test_nft_takes_the_rules_and_nothing_comes_in_but_by_them() -> None:
    rules = router.files(SPEC)["router-rules"]
    subprocess.run(["nft", "-c", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
    assert "ip daddr 203.0.113.10 tcp dport 8080 dnat to 10.20.0.5:80" in rules
    assert rules.count("policy drop") == 2, "input and forward"
    closed = router.files(replace(SPEC, forwards=()))["router-rules"]
    assert "dnat to" not in closed
    subprocess.run(["nft", "-c", "-f", "-"], input=closed, text=True, check=True, capture_output=True)


def test_leases_names_and_servers() -> None:
    told = router.files(SPEC)
    assert told["router-leases"] == "02:00:0a:14:00:05,10.20.0.5,web-1\n"
    assert told["router-names"] == "10.20.0.5 web-1\n"
    assert "server=203.0.113.53\n" in told["router-dnsmasq"]
    assert "dhcp-range=10.20.0.0,static,255.255.255.0,1h\n" in told["router-dnsmasq"]
    assert "server 203.0.113.123 iburst\n" in told["router-chronyd"]


@pytest.mark.parametrize("change", [{"leases": ()}, {"forwards": ()}, {"domain": "x"}, {"time_servers": ()}])
def test_the_digest_is_of_all_of_it(change: dict[str, object]) -> None:
    changed = replace(SPEC, **change)  # type: ignore[arg-type]
    assert changed.digest != SPEC.digest == replace(SPEC).digest
    assert router.files(SPEC)["router-digest"] == f"router-digest={SPEC.digest}\n"


def test_only_a_routers_seed_has_them() -> None:
    assert set(router.files(SPEC)) <= set(seed_files(ContextSpec("r", router=SPEC), "i", [CARD]))
    assert not [name for name in seed_files(ContextSpec("r"), "i", [CARD]) if name.startswith("router")]


def test_its_private_card_alone_sends_what_comes_from_elsewhere() -> None:
    """And even that not with an address of its own network: there others have theirs."""
    flows = openflow.replacement([CARD]).splitlines()
    own = next(f for f in flows if "nw_src=10.20.0.1," in f)
    others = next(f for f in flows if "nw_src=10.20.0.0/24," in f)
    all_else = next(f for f in flows if ",ip,actions=load" in f)
    priorities = [int(f.partition("priority=")[2].partition(",")[0]) for f in (own, others, all_else)]
    assert priorities == sorted(priorities, reverse=True)
    assert others.endswith("actions=drop")
    strict = openflow.replacement([replace(CARD, routes=False)])
    assert ",ip,actions=load" not in strict
    assert "ip saddr != 10.20.0.0/24 accept" in firewall.replacement([CARD])
    assert "ip saddr != 10.20.0.0/24" not in firewall.replacement([replace(CARD, routes=False)])
