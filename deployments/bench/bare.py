"""The floor: the same machines made and removed by the best simple loop one would write without us.

Plain libvirt-python and paramiko, a thread pool a host: no inventory, no Prefect, no check, no retry. It is
given its seeds and domain descriptions ready made, so what it takes is what the host, libvirt and SSH take.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt
import paramiko

from drivers.contract import Access
from drivers.ssh import address_of
from vdc.model import HostRef


@dataclass(frozen=True, slots=True)
class BareMachine:
    """What the loop needs to know of one machine. Paths are the host's."""

    name: str
    xml: str
    disk: str
    size_mib: int
    image: str
    seed: str
    seed_content: bytes


@dataclass(frozen=True)
class BareHost:
    """One host's two connections."""

    conn: libvirt.virConnect
    ssh: paramiko.SSHClient

    def make(self, machine: BareMachine) -> None:
        image, disk, seed = map(shlex.quote, (machine.image, machine.disk, machine.seed))
        self._run(f"qemu-img create -q -f qcow2 -b {image} -F qcow2 {disk} {machine.size_mib}M")
        self._run(f"cat > {seed}", machine.seed_content)
        domain = self.conn.defineXML(machine.xml)
        domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def remove(self, machine: BareMachine) -> None:
        domain = self.conn.lookupByName(machine.name)
        domain.destroy()
        domain.undefine()
        self._run(f"rm -f {shlex.quote(machine.disk)} {shlex.quote(machine.seed)}")

    def _run(self, command: str, stdin: bytes = b"") -> None:
        writer, reader, errors = self.ssh.exec_command(command)
        writer.write(stdin)
        writer.channel.shutdown_write()
        status = reader.channel.recv_exit_status()
        if status:
            raise RuntimeError(f"{command}: {errors.read().decode(errors='replace')}")


Batch = Sequence[tuple[BareHost, BareMachine]]


def make_all(batch: Batch, per_host: int) -> None:
    _on_each(batch, per_host, BareHost.make)


def remove_all(batch: Batch, per_host: int) -> None:
    _on_each(batch, per_host, BareHost.remove)


def _on_each(batch: Batch, per_host: int, act: Callable[[BareHost, BareMachine], None]) -> None:
    pools = {id(host): ThreadPoolExecutor(per_host) for host, _ in batch}
    futures = [pools[id(host)].submit(act, host, machine) for host, machine in batch]
    for pool in pools.values():
        pool.shutdown()
    for future in futures:
        future.result()


@contextmanager
def connected(hosts: Sequence[HostRef], access: Access) -> Iterator[dict[str, BareHost]]:
    """Connections to hosts, by name."""
    found: dict[str, BareHost] = {}
    try:
        for host in hosts:
            address = address_of(host.uri)
            client = paramiko.SSHClient()
            client.load_host_keys(str(access.known_hosts_file))
            client.connect(
                address.host,
                address.port,
                address.user,
                key_filename=str(access.key_file),
                allow_agent=False,
                look_for_keys=False,
            )
            found[host.name] = BareHost(libvirt.open(host.uri), client)
        yield found
    finally:
        for one in found.values():
            one.conn.close()
            one.ssh.close()
