"""A tenant's router on real machines: the way out and in, names, addresses, and what others do not get."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from deployments.guests.images import ensure_image
from deployments.lab.probe import Probe, open_probe
from drivers import registry, router
from tests.flows import run
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, wait_for
from vdc import catalog, specs
from vdc.inventory import read_session, write_session
from vdc.model import VmSpec
from vdc.routers import listing
from vdc.schema import Vm
from vdc.states import HOLDING

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

PUBLIC, ACME, BOLT = 320, 321, 322
SERVER = "203.0.113.1"
"""In the namespace outside, where the public network ends."""
CIDR, GATEWAY = "10.8.0.0/24", "10.8.0.1"

SERVE = """
import http.server
class Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("", 80), Who).serve_forever()
"""
"""Tells who asks where the question came from."""

ASK = """
import random, socket, struct, sys
def ask(message, port, source=0):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    s.settimeout(2)
    s.bind(("", source))
    s.sendto(message, (to, port))
    return s.recv(2048)
what, to, about = sys.argv[1:]
if what == "dns":
    name = b"".join(bytes([len(p)]) + p.encode() for p in about.split(".")) + b"\\0"
    answer = ask(struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack(">2H", 1, 1), 53)
    print(socket.inet_ntoa(answer[-4:]) if struct.unpack(">H", answer[6:8])[0] else "unknown")
elif what == "dhcp":
    mac = bytes.fromhex(about.replace(":", ""))
    head = struct.pack(">4BIHH16x16s192x", 1, 1, 6, 0, random.getrandbits(32), 0, 0x8000, mac)
    answer = ask(head + bytes.fromhex("6382536335010 1ff".replace(" ", "")), 67, 68)
    print(socket.inet_ntoa(answer[16:20]))
elif what == "ntp":
    answer = ask(b"\\x23" + 47 * b"\\0", 123)
    print("mode", answer[0] & 7)
"""
"""Questions of a machine on the router's network."""


@dataclass(frozen=True)
class Site:
    datacenter: Datacenter
    outside: Probe
    inside: Probe

    def spec(self, name: str) -> VmSpec:
        with read_session(self.datacenter.url) as session:
            query = session.query(Vm.spec).filter(Vm.name == name, Vm.state.in_(HOLDING))
            return specs.load(query.scalar())

    def in_guest(self, name: str, *command: str, timeout_s: float = BOOT_TIMEOUT_S) -> str:
        spec = self.spec(name)
        hypervisor = registry.hypervisor(spec.host, self.datacenter.lab.access)
        return str(hypervisor.run_in_guest(spec.domain, command, timeout_s=timeout_s))

    def ask(self, what: str, to: str, about: str = "") -> str:
        return self.inside.run(["python3", "-c", ASK, what, to, about]).stdout.strip()


@pytest.fixture
def site(clean: Datacenter) -> Iterator[Site]:
    """Tenants acme and bolt, with networks of the same addresses, and a public network."""
    run.import_image(file=str(ensure_image("router")), name="router", datastore="shared")
    with write_session(clean.url) as session:
        for name, vlan, cidr, gateway in (
            ("public", PUBLIC, "203.0.113.0/24", SERVER),
            ("acme-net", ACME, CIDR, GATEWAY),
        ):
            vnet = catalog.create_vnet(
                session,
                name,
                uri="vlan://ovsbr0",
                needs_vlan=True,
                vlan_id=vlan,
                cidr=cidr,
                gateway=gateway,
                public=name == "public",
                actor="test",
            )
        vnet.tenant_id = catalog.create_tenant(session, "acme", actor="test").id
        catalog.create_template(
            session, "router", image="router", vcpu=1, memory_mib=128, vnets=["public"], actor="test"
        )
    lab_id = clean.lab.lab.lab_id
    outside = open_probe(lab_id, PUBLIC, f"{SERVER}/24")
    server = subprocess.Popen(outside.command(["python3", "-c", SERVE]))
    try:
        yield Site(clean, outside, open_probe(lab_id, ACME, "10.8.0.250/24"))
    finally:
        server.kill()
        server.wait()
        with read_session(clean.url) as session:
            routed = [row["vnet"] for row in listing(session)]
        for vnet in routed:
            run.delete_router(vnet)


def test_a_network_has_its_way_out_and_in_by_its_router_and_nobody_else_has(site: Site) -> None:
    run.create_router("acme-net")
    public = site.spec("acme-net-router").nics[0].address
    site.in_guest("acme-net-router", *router.READ)

    run.deploy(name="web-1", tenant="acme", vnets=["acme-net"], memory_mib=96)
    card = site.spec("web-1").nics[0]
    for name in ("web-1", "web-1.acme.internal"):
        wait_for(lambda n=name: site.ask("dns", GATEWAY, n) == card.address, f"{name} resolves", 10)
    wait_for(lambda: site.ask("dhcp", "255.255.255.255", card.mac) == card.address, "it has a lease", 10)
    assert site.ask("ntp", GATEWAY) == "mode 4"

    seen = site.in_guest("web-1", "/bin/busybox", "wget", "-q", "-O", "-", f"http://{SERVER}/")
    assert seen == public, "what goes out has the public address"
    told = site.in_guest("web-1", "/bin/busybox", "udhcpc", "-n", "-q", "-i", "eth0", "-s", "/bin/busybox")
    print(told)

    run.forward_port("add", "acme-net", 8080, vm="web-1", to_port=80)
    assert "hostname=web-1\n" in str(site.outside.fetch(f"{public}:8080"))
    boot = site.outside.fetch(f"{public}:8080")

    _assert_others_do_not(site, public, card.address)

    run.redeploy_router("acme-net")
    answer = wait_for(lambda: site.outside.fetch(f"{public}:8080"), "the way in is back", BOOT_TIMEOUT_S)
    assert _of(answer, "boot_id") == _of(boot, "boot_id"), "its machine ran on"
    assert site.in_guest("web-1", "/bin/busybox", "wget", "-q", "-O", "-", f"http://{SERVER}/") == public

    run.forward_port("remove", "acme-net", 8080)
    assert site.outside.fetch(f"{public}:8080") is None
    assert run.reconcile() == []


def _assert_others_do_not(site: Site, public: str, address: str) -> None:
    """Neither from another tenant's VLAN, nor from the public network, where its neighbours' routers are."""
    stranger = open_probe(site.datacenter.lab.lab.lab_id, BOLT, "10.8.0.66/24")
    stranger.run(["ip", "route", "replace", "default", "via", GATEWAY])
    assert stranger.fetch(SERVER, timeout_s=2) is None
    site.outside.run(["ip", "route", "replace", CIDR, "via", public])
    assert site.outside.fetch(address, timeout_s=2) is None, "not past the forwards"
    site.outside.run(["ip", "route", "delete", CIDR])


def _of(page: str | None, key: str) -> str:
    return dict(line.split("=", 1) for line in str(page).splitlines())[key]
