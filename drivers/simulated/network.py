"""A simulated host's switch: which networks it carries, which ports it has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from drivers.contract import Access, NetworkCapabilities
from drivers.network.switch import is_ours, ours, outer_tag
from drivers.simulated.store import Call, datacenter, parse_uri
from vdc.errors import Invalid, Unsupported
from vdc.model import Attachment, HostRef, NicSpec, VnetSpec


def network_capabilities(uri: str) -> NetworkCapabilities:
    """Raises Invalid where the datacenter has no such switch."""
    path, switch = parse_uri(uri, "switch")
    tags = outer_tag(uri)
    with datacenter(path).transaction() as db:
        row = db.execute("SELECT vlan, tunnels FROM switches WHERE name = ?", (switch,)).fetchone()
    if row is None:
        raise Invalid(f"There is no switch {switch!r} in {path}.")
    if tags and not row[0]:
        raise Invalid(f"Network URI {uri!r}: switch {switch!r} carries no VLAN, so that no tag goes around.")
    vlan, tunnels = map(bool, row)
    return NetworkCapabilities(isolated=vlan, vlan=vlan, filtering=vlan, peers=tunnels)


class SimulatedNetwork:
    """One switch on one host; with VLANs it isolates, without it is a plain bridge."""

    def __init__(self, uri: str, host: HostRef, access: Access) -> None:
        self._path, self._switch = parse_uri(uri, "switch")
        self._host = parse_uri(host.uri, "host")[1]
        self._timeout_s = access.call_timeout_s
        self.capabilities = network_capabilities(uri)

    def _call(self, name: str, subject: str = "") -> AbstractContextManager[Call]:
        return datacenter(self._path).call(self._host, f"network.{name}", subject, self._timeout_s)

    def ensure_network(self, vnet: VnetSpec) -> bool:
        vlan_id = self._vlan_id(vnet) or 0
        with self._call("ensure_network", vnet.name) as call:
            row = (self._host, self._switch)
            self._check_uplink(call, f"cannot carry {vnet.name}")
            return (
                call.execute("INSERT OR IGNORE INTO networks VALUES (?, ?, ?)", (*row, vlan_id)).rowcount > 0
            )

    def attachment(self, vnet: VnetSpec, nic: NicSpec) -> Attachment:
        self._vlan_id(vnet)
        return Attachment(device=nic.device, mac=nic.mac)

    def ensure_ports(self, nics: Sequence[NicSpec]) -> bool:
        if not nics:
            return False
        if not self.capabilities.filtering and any(nic.rules is not None for nic in nics):
            raise Unsupported(f"{self._host}: switch {self._switch} does not follow connections.")
        with self._call("ensure_ports", " ".join(ours(nic.device) for nic in nics)) as call:
            made = 0
            for nic in nics:
                network = (self._host, self._switch, self._vlan_id(nic.vnet) or 0)
                if not call.one(
                    "SELECT 1 FROM networks WHERE host = ? AND switch = ? AND vlan_id = ?", network
                ):
                    raise call.failure(f"no VLAN {nic.vnet.vlan_id} on {self._switch}: no port {nic.device}")
                made += call.execute(
                    "INSERT INTO ports VALUES (?, ?, ?, ?) ON CONFLICT (host, device) DO UPDATE"
                    " SET switch = excluded.switch, rules = excluded.rules"
                    " WHERE switch <> excluded.switch OR rules <> excluded.rules",
                    (self._host, nic.device, self._switch, self._rules(nic)),
                ).rowcount
                call.fail_if("halfway")
            return made > 0

    def read_unguarded(self, nics: Sequence[NicSpec]) -> list[str]:
        if not nics:
            return []
        with self._call("read_unguarded") as call:
            query = "SELECT device, rules FROM ports WHERE host = ? AND switch = ?"
            seen = dict(call.execute(query, (self._host, self._switch)).fetchall())
        return [nic.device for nic in nics if seen.get(nic.device) != self._rules(nic)]

    def _rules(self, nic: NicSpec) -> str:
        tag = f"{self._vlan_id(nic.vnet) or 0}{outer_tag(nic.vnet.uri)}"
        return f"{tag} {nic.mac} {nic.address} {nic.rules or ''}"

    def _vlan_id(self, vnet: VnetSpec) -> int | None:
        if self.capabilities.vlan and (vnet.vlan_id is None or not 1 <= vnet.vlan_id <= 4094):
            raise Invalid(f"Network {vnet.name} needs a VLAN id from 1 to 4094, not {vnet.vlan_id}.")
        if not self.capabilities.vlan and vnet.vlan_id is not None:
            raise Invalid(
                f"Network {vnet.name}: switch {self._switch} carries no VLAN; leave the VLAN id out."
            )
        return vnet.vlan_id

    def read_ports(self) -> list[str]:
        with self._call("read_ports") as call:
            row = (self._host, self._switch)
            rows = call.execute("SELECT device FROM ports WHERE host = ? AND switch = ? ORDER BY device", row)
            return [device for (device,) in rows if is_ours(device)]

    def ensure_ports_removed(self, devices: Sequence[str]) -> bool:
        devices = [ours(device) for device in devices]
        with self._call("ensure_ports_removed", " ".join(devices)) as call:
            removed = 0
            for device in devices:
                removed += call.execute(
                    "DELETE FROM ports WHERE host = ? AND switch = ? AND device = ?",
                    (self._host, self._switch, device),
                ).rowcount
            return removed > 0

    def ensure_peers(self, peers: Sequence[str]) -> bool:
        if not self.capabilities.peers:
            return False
        row = (self._host, self._switch)
        with self._call("ensure_peers", " ".join(sorted(peers))) as call:
            self._check_uplink(call, "cannot reach other hosts")
            before = self._peers(call)
            call.execute("DELETE FROM peers WHERE host = ? AND switch = ?", row)
            for peer in peers:
                call.execute("INSERT OR IGNORE INTO peers VALUES (?, ?, ?)", (*row, peer))
                call.fail_if("halfway")
            return before != set(peers)

    def read_peers_amiss(self, peers: Sequence[str]) -> list[str]:
        if not self.capabilities.peers:
            return []
        with self._call("read_peers_amiss") as call:
            self._check_uplink(call, "cannot reach other hosts")
            return sorted(self._peers(call) ^ set(peers))

    def _check_uplink(self, call: Call, so: str) -> None:
        row = (self._host, self._switch)
        if not call.one("SELECT 1 FROM uplinks WHERE host = ? AND switch = ?", row):
            raise call.failure(f"no switch {self._switch} here: {so}")

    def _peers(self, call: Call) -> set[str]:
        query = "SELECT peer FROM peers WHERE host = ? AND switch = ?"
        return {peer for (peer,) in call.execute(query, (self._host, self._switch))}


def network(uri: str, host: HostRef, access: Access) -> SimulatedNetwork:
    """The driver of `simulated:///path/dc.db?switch=NAME`."""
    return SimulatedNetwork(uri, host, access)
