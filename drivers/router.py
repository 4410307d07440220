"""What a router is told by its seed, as the files of the programs that it runs. Pure.

The image `router` (deployments/guests/router) puts them into force; docs/routers.md says what they do.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network

from vdc.model import RouterSpec

APPLY = ("/usr/lib/router/apply",)
"""Makes the router what its seed says, and prints the digest of what is in force."""
READ = ("/usr/lib/router/apply", "read")
"""Only prints it."""
DIGEST = "router-digest="
"""How that line begins."""

PUBLIC, PRIVATE = "eth0", "eth1"
TABLE = "table ip router"


def files(router: RouterSpec) -> Mapping[str, str]:
    """Name in the seed -> content."""
    return {
        "router-rules": _rules(router),
        "router-dnsmasq": _dnsmasq(router),
        "router-chronyd": _chronyd(router),
        "router-leases": "".join(f"{one.mac},{one.address},{one.name}\n" for one in router.leases),
        "router-names": "".join(f"{one.address} {one.name}\n" for one in router.leases),
        "router-digest": f"{DIGEST}{router.digest}\n",
    }


def _rules(router: RouterSpec) -> str:
    """A ruleset for `nft -f`, which takes the place of the former one in one transaction."""
    before = [
        f"ip daddr {router.public_address} {f.protocol} dport {f.port} dnat to {f.address}:{f.to_port}"
        for f in router.forwards
    ]
    chains = {
        "input": (
            "type filter hook input priority filter; policy drop;",
            "ct state established,related accept",
            'iifname "lo" accept',
            "icmp type echo-request accept",
            f'iifname "{PRIVATE}" udp dport {{ 53, 67, 123 }} accept',
            f'iifname "{PRIVATE}" tcp dport 53 accept',
        ),
        "forward": (
            "type filter hook forward priority filter; policy drop;",
            "ct state established,related accept",
            f'iifname "{PRIVATE}" oifname "{PUBLIC}" ip saddr {router.cidr} accept',
            f'oifname "{PRIVATE}" ct status dnat accept',
        ),
        "before": ("type nat hook prerouting priority dstnat;", *before),
        "after": (
            "type nat hook postrouting priority srcnat;",
            f'oifname "{PUBLIC}" snat to {router.public_address}',
            # A machine that asks for its own network's public address: the answer must come this way too.
            f'oifname "{PRIVATE}" ip saddr {router.cidr} ct status dnat snat to {router.address}',
        ),
    }
    lines = [TABLE, f"delete {TABLE}", f"{TABLE} {{"]
    for name, rules in chains.items():
        lines += [f"\tchain {name} {{", *(f"\t\t{rule}" for rule in rules), "\t}"]
    return "\n".join([*lines, "}"]) + "\n"


def _dnsmasq(router: RouterSpec) -> str:
    network = IPv4Network(router.cidr)
    lines = [
        "user=root",
        f"interface={PRIVATE}",
        "bind-interfaces",
        "no-hosts",
        "no-resolv",
        "domain-needed",
        "bogus-priv",
        "addn-hosts=/run/router/names",
        "expand-hosts",
        f"domain={router.domain}",
        f"local=/{router.domain}/",
        *(f"server={address}" for address in router.resolvers),
        # Only who is known gets an address.
        f"dhcp-range={network.network_address},static,{network.netmask},1h",
        "dhcp-authoritative",
        "dhcp-hostsfile=/run/router/leases",
        "dhcp-leasefile=/run/router/given",
        *(f"dhcp-option=option:{name},{router.address}" for name in ("router", "dns-server", "ntp-server")),
        "no-ping",
    ]
    return "\n".join(lines) + "\n"


def _chronyd(router: RouterSpec) -> str:
    lines = [
        *(f"server {address} iburst" for address in router.time_servers),
        "makestep 1 3",
        # Without any time server: the host's clock, as this machine was started with it.
        "local stratum 10",
        f"allow {router.cidr}",
        f"bindaddress {router.address}",
        "cmdport 0",
        "bindcmdaddress /",
        "pidfile /run/router/chronyd.pid",
    ]
    return "\n".join(lines) + "\n"
