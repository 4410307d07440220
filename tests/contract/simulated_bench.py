"""A bench in a file: see bench.py."""

from __future__ import annotations

from pathlib import Path

from drivers.contract import Access
from drivers.simulated import Simulation, Store, Switch
from tests.contract.bench import Bench, Hand
from vdc.model import DomainSpec, HostRef


class SimulatedBench(Bench):
    """A bench in a file."""

    def __init__(
        self,
        directory: Path,
        *,
        disk_format: str = "qcow2",
        shared: bool = True,
        vlan: bool = True,
        tunnels: bool = False,
        network_options: str = "",
    ) -> None:
        self.simulation = Simulation.create(
            directory / "dc.db",
            ["h1", "h2", "h3"],
            [Store("store", shared, disk_format)],
            [Switch("trunk0", vlan, tunnels), Switch("loose", vlan, tunnels)],
        )
        self.simulation.host_down("h3")
        access = Access(directory / "key", directory / "known_hosts")
        super().__init__(
            self.simulation.host("h1"),
            access,
            self.simulation.datastore_uri("store"),
            self.simulation.network_uri("trunk0") + network_options,
            SimulatedHand(self.simulation, "" if shared else "h1"),
            directory,
        )

    def reads_as(self, disk: Path, source: Path) -> bool:
        return disk.exists() and source.exists()  # there are no bytes to compare

    def second_host(self) -> HostRef:
        return self.simulation.host("h2")

    def second_hand(self) -> Hand:
        return SimulatedHand(self.simulation, "h2")

    def unreachable_host(self) -> HostRef:
        return self.simulation.host("h3")

    def close(self) -> None:
        super().close()
        self.simulation.delete()


class SimulatedHand:
    """The second hand in a simulated datacenter."""

    def __init__(self, simulation: Simulation, host: str) -> None:
        self._simulation = simulation
        self._host = host

    def plant_file(self, file: str, size: int) -> None:
        self._simulation.add_file("store", file, size, self._host)

    def damage(self, file: str) -> None:
        self._simulation.damage("store", file, "1 errors were found on the image.", self._host)

    def plant_port(self, device: str) -> None:
        self._simulation.add_port("h1", "trunk0", device)

    def loosen(self, device: str) -> None:
        self._simulation.loosen_port("h1", device)

    def plant_loose_bridge(self) -> str:
        self._simulation.set_uplink("h1", "loose", False)
        return self._simulation.network_uri("loose")

    def forget_peer(self, peer: str) -> None:
        self._simulation.forget_peer("h1", "trunk0", peer)

    def plant_domain(self, name: str) -> None:
        self._simulation.add_foreign_domain("h1", name, "stopped")

    def silence(self, name: str) -> None:
        self._simulation.ignore_acpi(name)

    def harden(self, name: str) -> None:
        self._simulation.give_nothing_back(name)

    def virtual_size_mib(self, file: str) -> int:
        return self._simulation.virtual_size_mib("store", file, self._host)

    def holds_image(self, file: str, source: Path) -> bool:
        return source.exists()  # there are no bytes to compare

    def power_off(self, spec: DomainSpec) -> None:
        self._simulation.guest_shutdown(spec.name)

    def write_disk(self, spec: DomainSpec, value: int) -> None:
        self._simulation.write_guest(spec.name, disk=str(value))

    def read_disk(self, spec: DomainSpec) -> int:
        return int(self._simulation.read_guest(spec.name)[0] or 0)

    def write_memory(self, spec: DomainSpec, value: int) -> None:
        self._simulation.write_guest(spec.name, memory=str(value))

    def read_memory(self, spec: DomainSpec) -> int:
        return int(self._simulation.read_guest(spec.name)[1] or 0)

    def close(self) -> None:
        """The file goes as a whole."""
