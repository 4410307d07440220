"""Two tenants with the same addresses and MACs, seen through their own guests and on the wire."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from deployments.lab.probe import Probe, open_probe
from drivers import registry
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.engine import running_on
from tests.flows.site import settings
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, type_into, wait_for
from vdc import catalog, secrets
from vdc.inventory import read_session, write_session
from vdc.model import VmSpec
from vdc.schema import Host, Tenant, Vm, Vnet
from vdc.security_groups import create_group
from vdc.settings import Settings
from vdc.settings import load as load_settings
from vdc.specs import load
from vdc.states import HOLDING

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]

VLANS = {"red": 310, "green": 311}
CIDR, FLAT = "10.5.0.0/24", "10.6.0.0/24"
PROBE = "10.5.0.250"
FORGED_MAC = "02:66:66:66:66:66"
TELLS = "echo {{ name }} {{ address }} {{ values.colour }} {{ secret('pin') }} > /tmp/told-at-start"
FIRST, SECOND, FORGED = "10.5.0.1", "10.5.0.2", "10.5.0.77"


@dataclass(frozen=True)
class Guest:
    """A machine, asked through a probe on its tenant's VLAN."""

    datacenter: Datacenter
    name: str
    probe: Probe

    @property
    def spec(self) -> VmSpec:
        with read_session(self.datacenter.url) as session:
            query = session.query(Vm.spec).filter(Vm.name == self.name, Vm.state.in_(HOLDING))
            return load(query.scalar())

    @property
    def host(self) -> str:
        return self.spec.host.name

    @property
    def tap(self) -> str:
        return self.spec.nics[0].device

    def try_sh(self, command: str) -> str | None:
        """What it prints; None where it could not be asked, or failed."""
        address = self.spec.nics[0].address
        return type_into(self.probe, address, self.datacenter.lab.access.key_file, command)

    def sh(self, command: str) -> str:
        told = self.try_sh(command)
        assert told is not None, f"{self.name}: {command} failed"
        return told

    def pings(self, address: str, source: str = "") -> bool:
        """Whether one of three echoes comes back to it."""
        of = f"-I {source} " if source else ""
        return _came_back(self.sh(f"ping -c 3 -W 1 {of}{address} 2>&1 || true"))

    def neighbour(self, address: str) -> str:
        """The name of who answers it by TCP at an address."""
        page = self.sh(f"timeout 5 wget -q -O - http://{address}/ || true")
        return dict(line.split("=", 1) for line in page.splitlines()).get("hostname", "")

    def pings_with_another_mac(self, address: str) -> bool:
        """Whether an echo comes back while its card has a forged MAC: it tells afterwards."""
        mac = self.spec.nics[0].mac
        forge = (
            f"ip link set eth0 address {FORGED_MAC}; ping -c 3 -W 1 {address} >/tmp/told; "
            f"ip link set eth0 address {mac}; ip neigh flush dev eth0; "
            # By its question they learn that it is itself again.
            f"ping -c 1 -W 1 {address}; ping -c 1 -W 1 {PROBE}; touch /tmp/over"
        )
        self.sh(f"rm -f /tmp/over; (sleep 1; {forge}) >/dev/null 2>&1 &")
        wait_for(lambda: self.try_sh("cat /tmp/over && echo over"), f"{self.name} is itself again")
        return _came_back(self.sh("cat /tmp/told"))


def _came_back(told: str) -> bool:
    return re.search(r" [1-9]\d* packets received", told) is not None


@contextmanager
def watched(prefix: list[str], device: str, what: str, log: Path) -> Iterator[list[str]]:
    """The frames that pass `device` meanwhile; the list is filled when the body ends."""
    seen: list[str] = []
    errors = log.with_suffix(".err")
    with log.open("w") as out, errors.open("w") as err:
        command = [*prefix, "tcpdump", "-e", "-n", "-l", "--immediate-mode", "-i", device, what]
        dump = subprocess.Popen(command, stdout=out, stderr=err)
    try:
        wait_for(lambda: "listening on" in errors.read_text(), f"tcpdump of {device} listens")
        yield seen
    finally:
        dump.terminate()
        dump.wait(timeout=10)
        seen += [line for line in log.read_text().splitlines() if line]


@dataclass(frozen=True)
class Tenants:
    """`red-1`, `red-2`, `green-1`, `green-2`; the first ones on h1, the second ones on h2."""

    datacenter: Datacenter
    guests: dict[str, Guest]

    def inside(self, host: str) -> list[str]:
        return ["nsenter", "-t", str(self.datacenter.lab.lab.host(host).pid), "-m", "-n", "-u"]

    def on_switch(self, host: str, *argv: str) -> None:
        self.datacenter.on_host(host, "ovs-ofctl", *argv)

    def assert_apart(self, directory: Path) -> None:
        """Each reaches all of its own and none of the other's: TCP, echo, ARP, broadcast."""
        for tenant in VLANS:
            for me, other in ((1, 2), (2, 1)):
                guest, address = self.guests[f"{tenant}-{me}"], f"10.5.0.{other}"
                assert guest.neighbour(address) == f"{tenant}-{other}"
                assert guest.pings(address)
        for tenant, stranger in (("red", "green"), ("green", "red")):
            sender, own = self.guests[f"{tenant}-1"], self.guests[f"{tenant}-2"]
            strangers = [self.guests[f"{stranger}-{n}"] for n in (1, 2)]
            # A question may be asked again when the other tenant's turn has come.
            nobody = f"10.5.0.{VLANS[tenant] % 100}"
            heard = broadcast(self, sender, [own, *strangers], directory, "10.5.0.255", nobody, 0)
            assert heard[own.name]
            assert [heard[s.name] for s in strangers] == [False, False]


def broadcast(
    tenants: Tenants,
    sender: Guest,
    listeners: list[Guest],
    directory: Path,
    everybody: str,
    nobody: str,
    card: int,
) -> dict[str, bool]:
    """Who hears an echo to everybody, or the question for an address that nobody has."""
    seen: dict[str, list[str]] = {}
    what = f"(icmp and dst {everybody}) or (arp and dst host {nobody})"
    with ExitStack() as stack:
        for guest in listeners:
            device = guest.spec.nics[card].device
            wire = watched(tenants.inside(guest.host), device, what, directory / f"{guest.name}.log")
            seen[guest.name] = stack.enter_context(wire)
        sender.sh(f"ping -c 2 -W 1 {everybody}; ping -c 1 -W 1 {nobody}; true")
    return {name: bool(lines) for name, lines in seen.items()}


def onboard(directory: Path, key: str, *, machines: bool) -> None:
    """Three tenants in one command; what they are told names secrets, so that machines come with a second."""
    files = []
    for tenant in (*VLANS, "gray"):
        names = [f"{tenant}-1", f"{tenant}-2"] if machines and tenant in VLANS else []
        values = {
            "tenant": tenant,
            "user": {"name": f"{tenant}-admin", "ssh_keys": [key]},
            "network": {"cidr": CIDR},
            "template": {"name": "web", "image": "tiny", "memory_mib": 96, "start_script": TELLS},
            "context": {"values": {"colour": tenant}},
            "machines": [{"name": name} for name in names],
        }
        files.append(directory / f"{tenant}.yaml")
        files[-1].write_text(yaml.safe_dump(values))
    command = ["tenant", "onboard", *map(str, files)]
    with (
        settings(tenant_uplink="vlan://ovsbr0", tenant_vlans="310-319"),
        pytest.MonkeyPatch.context() as patch,
    ):
        # This process has been told of its Prefect server before.
        patch.setattr("interfaces.cli.running.use_prefect", lambda: None)
        cli.main(command, prog_name="vdc", standalone_mode=False)


@pytest.fixture(scope="module", autouse=True)
def simulated_engine(prefect_client: Settings) -> Iterator[None]:
    with running_on("simulated"):
        yield


@pytest.fixture(scope="module")
def tenants(datacenter: Datacenter, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    key = datacenter.lab.access.key_file.with_suffix(".pub").read_text().strip()
    with write_session(datacenter.url) as session:
        for host in session.query(Host):
            host.networks = ["vlan://ovsbr0", "bridge://br0"]
        catalog.create_vnet(
            session, "flat", uri="bridge://br0", needs_vlan=False, vlan_id=None, cidr=FLAT, actor="test"
        )
    directory = tmp_path_factory.mktemp("tenants")
    onboard(directory, key, machines=False)
    sealing = secrets.key(load_settings().secrets_key, make=True)
    with write_session(datacenter.url) as session:
        for tenant in VLANS:
            secrets.set_secret(session, "pin", f"of-{tenant}", tenant, with_key=sealing, actor="test")
    onboard(directory, key, machines=True)
    guests = {}
    for tenant, vlan_id in VLANS.items():
        probe = open_probe(datacenter.lab.lab.lab_id, vlan_id, f"{PROBE}/24")
        for number in (1, 2):
            guests[f"{tenant}-{number}"] = Guest(datacenter, f"{tenant}-{number}", probe)
    made = Tenants(datacenter, guests)
    try:
        for guest in guests.values():
            wait_for(
                lambda guest=guest: says(guest.probe, guest.spec.nics[0].address),  # type: ignore[misc]
                f"{guest.name} answers",
                BOOT_TIMEOUT_S,
            )
            wait_for(lambda guest=guest: guest.try_sh("echo in"), f"{guest.name} lets us in", BOOT_TIMEOUT_S)  # type: ignore[misc]
        yield made
    finally:
        for tenant in VLANS:
            run.terminate(*(name for name in datacenter.live() if name.startswith(tenant)), tenant=tenant)
        datacenter.assert_agrees()


def test_three_tenants_of_one_command_have_a_vlan_each(tenants: Tenants) -> None:
    with read_session(tenants.datacenter.url) as session:
        query = session.query(Tenant.name, Vnet.vlan_id, Vnet.cidr).join(Vnet, Vnet.tenant_id == Tenant.id)
        made = {(name, vlan_id, cidr) for name, vlan_id, cidr in query}
    assert made == {(tenant, 310 + n, CIDR) for n, tenant in enumerate(("red", "green", "gray"))}


def test_each_was_told_what_was_rendered_for_it_with_its_own_secret(tenants: Tenants) -> None:
    for name, guest in tenants.guests.items():
        tenant, address = name.split("-")[0], guest.spec.nics[0].address
        assert guest.sh("cat /tmp/told-at-start") == f"{name} {address} {tenant} of-{tenant}\n"


def test_two_tenants_with_the_same_addresses_and_macs_never_meet(tenants: Tenants, tmp_path: Path) -> None:
    red, green = (tenants.guests[f"{tenant}-1"].spec for tenant in VLANS)
    assert red.host == green.host
    assert [(n.address, n.mac) for n in red.nics] == [(n.address, n.mac) for n in green.nics]
    tenants.assert_apart(tmp_path)

    # On the trunk every frame says whose it is.
    outside = ["ip", "netns", "exec", f"vdc-{tenants.datacenter.lab.lab.lab_id}-outside"]
    with watched(
        outside, "eth1", f"icmp or (vlan and icmp and host {SECOND})", tmp_path / "trunk.log"
    ) as seen:
        assert tenants.guests["red-1"].pings(SECOND)
        assert tenants.guests["green-1"].pings(SECOND)
    tagged = {tenant: sum(f"vlan {vlan_id}," in line for line in seen) for tenant, vlan_id in VLANS.items()}
    assert sum(tagged.values()) == len(seen)
    assert all(tagged.values())


def test_what_a_guest_sends_is_counted_as_sent(tenants: Tenants) -> None:
    """Also on a port that libvirt did not make."""
    guest = tenants.guests["green-1"]
    hypervisor = registry.hypervisor(guest.spec.host, tenants.datacenter.lab.access)

    def counted() -> tuple[int, int]:
        (mine,) = (c for c in hypervisor.read_counters() if c.vm_id == guest.spec.vm_id)
        return mine.net_tx_bytes, mine.net_rx_bytes

    sent, got = counted()
    guest.sh("ping -c 50 -i 0.02 -s 1400 -W 1 10.5.0.255 || true")
    sent_now, got_now = counted()
    assert sent_now - sent > 50 * 1400 > 2 * (got_now - got)


def test_they_stay_apart_where_one_migrates(tenants: Tenants, tmp_path: Path) -> None:
    moving = tenants.guests["red-1"]
    boot_id = says(moving.probe, FIRST)["boot_id"]
    run.migrate("red-1", "h2")
    assert moving.host == "h2"
    assert says(moving.probe, FIRST)["boot_id"] == boot_id
    tenants.datacenter.assert_agrees()
    tenants.assert_apart(tmp_path)
    assert not moving.pings_with_another_mac(SECOND), "its rules are on the host that it came to"
    run.migrate("red-1", "h1")
    tenants.assert_apart(tmp_path)


def test_forged_addresses_are_dropped(tenants: Tenants) -> None:
    forger, device = tenants.guests["red-2"], tenants.guests["red-2"].tap
    forger.sh(f"ip addr add {FORGED}/24 dev eth0")
    assert forger.pings(FIRST)
    assert not forger.pings(FIRST, source=FORGED)
    assert not forger.pings_with_another_mac(FIRST)

    # The control: on a port that lets everything through both are answered.
    out, back = f"priority=200,in_port={device}", f"table=20,priority=200,dl_dst={FORGED_MAC}"
    tenants.on_switch("h2", "add-flow", "vdc-ovsbr0", f"{out},actions=NORMAL")
    tenants.on_switch("h2", "add-flow", "vdc-ovsbr0", f"{back},actions=output:{device}")
    assert forger.pings(FIRST, source=FORGED)
    assert forger.pings_with_another_mac(FIRST)
    for flow in (out, back):
        tenants.on_switch("h2", "--strict", "del-flows", "vdc-ovsbr0", flow)
    assert not forger.pings(FIRST, source=FORGED)
    forger.sh(f"ip addr del {FORGED}/24 dev eth0")


def test_a_switch_that_has_forgotten_its_rules_passes_nothing_until_they_are_back(tenants: Tenants) -> None:
    asking = tenants.guests["red-1"]
    tenants.on_switch("h2", "del-flows", "vdc-ovsbr0")
    assert not asking.pings(SECOND)
    found = {(f.what, f.object, f.action) for f in run.reconcile()}
    assert found == {("port without its rules", f"vm/{t}-2", "restored") for t in VLANS}
    assert asking.pings(SECOND)
    assert run.reconcile() == []


def test_what_no_security_group_lets_in_stays_out_wherever_the_machine_is(tenants: Tenants) -> None:
    asking, guarded = tenants.guests["red-1"], tenants.guests["red-2"]
    boot_id = says(guarded.probe, SECOND)["boot_id"]
    with write_session(tenants.datacenter.url) as session:
        create_group(session, "web", "red", actor="test")
    # For our own way in.
    run.change_group("add", "web", "in", "tcp", ports="22", cidr="10.5.0.250/32", tenant="red")
    run.assign_groups("assign", "web", "red-2", tenant="red")

    def seen() -> tuple[bool, str, bool, str]:
        """Whether the other one reaches it by echo and by TCP, and it the other one."""
        there = guarded.pings(FIRST), guarded.neighbour(FIRST)
        return asking.pings(SECOND), asking.neighbour(SECOND), *there

    assert seen() == (False, "", True, "red-1"), "answers to what it began come in"
    assert says(guarded.probe, SECOND) == {}
    run.change_group("add", "web", "in", "tcp", ports="80-81", cidr="10.5.0.0/24", tenant="red")
    assert seen() == (False, "red-2", True, "red-1")
    assert tenants.guests["green-1"].pings(SECOND), "another tenant's machine of that address is not meant"

    run.migrate("red-2", "h1")
    assert seen() == (False, "red-2", True, "red-1"), "both are on one switch now"
    assert says(guarded.probe, SECOND)["boot_id"] == boot_id
    run.change_group("remove", "web", "out", "any", tenant="red")
    assert seen() == (False, "red-2", False, "")
    run.change_group("remove", "web", "in", "tcp", ports="80-81", cidr="10.5.0.0/24", tenant="red")
    assert seen() == (False, "", False, "")
    assert run.reconcile() == []
    run.migrate("red-2", "h2")
    assert seen() == (False, "", False, "")

    with write_session(tenants.datacenter.url) as session:
        create_group(session, "friends", "red", actor="test")
    run.change_group("add", "friends", "in", "tcp", ports="22", cidr="10.5.0.250/32", tenant="red")
    run.change_group("add", "web", "in", "tcp", ports="80", peer="friends", tenant="red")
    assert asking.neighbour(SECOND) == ""
    run.assign_groups("assign", "friends", "red-1", tenant="red")
    assert asking.neighbour(SECOND) == "red-2", "it is let in as it is one of them now"
    run.assign_groups("unassign", "friends", "red-1", tenant="red")
    assert asking.neighbour(SECOND) == ""
    run.assign_groups("unassign", "web", "red-2", tenant="red")
    assert seen() == (True, "red-2", True, "red-1")
    tenants.datacenter.assert_agrees()


def test_a_plain_bridge_keeps_nobody_apart_but_lets_nobody_forge(tenants: Tenants, tmp_path: Path) -> None:
    """It fails the probe that VLANs pass; addresses are checked there too, by another firewall."""
    red, green = tenants.guests["red-1"], tenants.guests["green-2"]
    for name in ("red-1", "green-2"):
        run.attach_nic(name, "flat")
    mine, theirs = (guest.spec.nics[1] for guest in (red, green))
    wait_for(lambda: red.pings(theirs.address), "the new cards are up")
    heard = broadcast(tenants, red, [green], tmp_path, "10.6.0.255", "10.6.0.99", 1)
    assert heard == {"green-2": True}

    card = red.sh(f"ip -o addr show | grep {mine.address}/ | cut -d' ' -f2").strip()
    red.sh(f"ip addr add 10.6.0.77/24 dev {card}")
    assert not red.pings(theirs.address, source="10.6.0.77")
    drop = ["nft", "delete", "element", "bridge", "vdc", "cards", f'{{ "{mine.device}" }}']
    tenants.datacenter.on_host(red.host, *drop)
    assert not red.pings(theirs.address), "a port of ours that has no rules passes nothing"
    tenants.datacenter.on_host(red.host, "nft", "delete", "table", "bridge", "vdc")
    assert red.pings(theirs.address, source="10.6.0.77"), "the control"
    assert [(f.what, f.object) for f in run.reconcile()] == [("port without its rules", "vm/red-1")]
    assert not red.pings(theirs.address, source="10.6.0.77")
    assert red.pings(theirs.address)
    for name, nic in (("red-1", mine), ("green-2", theirs)):
        run.detach_nic(name, nic.address)
        assert nic.device not in tenants.datacenter.ports()
