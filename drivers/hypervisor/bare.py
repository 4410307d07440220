"""The floor: the same machines made and removed by the best simple loop one would write without us.

Plain libvirt-python and paramiko, a thread pool a host: no inventory, no Prefect, no check, no retry. It is
given its seeds and domain descriptions ready made, so what it takes is what the host, libvirt and SSH take.
Its cards' ports have the same rules as ours, by the same scripts: those of the network's driver.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import libvirt
import paramiko

from drivers.contract import Access
from drivers.deadline import within
from drivers.hypervisor.libvirt import translate
from drivers.ssh import address_of
from vdc.errors import DriverFailure, HostUnreachable
from vdc.model import HostRef

Listener = Callable[[str, str, float, float], object]
"""Called with a machine's name, the step, and when that began and ended (`time.time()`)."""


@dataclass(frozen=True, slots=True)
class BareMachine:
    """What the loop needs to know of one machine. Paths are the host's."""

    name: str
    xml: str
    disk: str
    size_mib: int
    image: str
    image_format: str
    seed: str
    seed_content: bytes
    plug: Sequence[Callable[[], object]]
    """What makes its cards' ports, with their rules."""
    unplug: Sequence[Callable[[], object]]
    paused: bool = True


@dataclass(frozen=True)
class BareHost:
    """One host's two connections."""

    name: str
    conn: libvirt.virConnect
    ssh: paramiko.SSHClient
    listener: Listener | None = None

    def make(self, machine: BareMachine) -> None:
        image, disk, seed = map(shlex.quote, (machine.image, machine.disk, machine.seed))
        backing = f"-b {image} -F {shlex.quote(machine.image_format)}"
        with self._timed(machine, "ensure network"):
            for call in machine.plug:
                call()
        with self._timed(machine, "ensure disk"):
            self._run(f"qemu-img create -q -f qcow2 {backing} {disk} {machine.size_mib}M")
        with self._timed(machine, "ensure seed"):
            self._run(f"cat > {seed}", machine.seed_content)
        with self._timed(machine, "define"):
            domain = self.conn.defineXML(machine.xml)
        with self._timed(machine, "start"):
            domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if machine.paused else 0)

    def remove(self, machine: BareMachine) -> None:
        with self._timed(machine, "remove domain"):
            domain = self.conn.lookupByName(machine.name)
            domain.destroy()
            domain.undefine()
        with self._timed(machine, "remove ports"):
            for call in machine.unplug:
                call()
        with self._timed(machine, "remove files"):
            self._run(f"rm -f {shlex.quote(machine.disk)} {shlex.quote(machine.seed)}")

    def _run(self, command: str, stdin: bytes = b"") -> None:
        writer, reader, errors = self.ssh.exec_command(command)
        writer.write(stdin)
        writer.channel.shutdown_write()
        status = reader.channel.recv_exit_status()
        if status:
            stderr = errors.read().decode(errors="replace")
            raise DriverFailure(
                f"{self.name}: {command} failed: {stderr.strip()}",
                host=self.name,
                command=command,
                stderr=stderr,
            )

    @contextmanager
    def _timed(self, machine: BareMachine, step: str) -> Iterator[None]:
        begun = time.time()
        try:
            yield
        except libvirt.libvirtError as error:
            raise translate(error, self.name, f"{step} of {machine.name}") from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise HostUnreachable(f"{self.name}: {step} of {machine.name} failed: {error!r}.") from error
        finally:
            if self.listener is not None:
                self.listener(machine.name, step, begun, time.time())


Batch = Sequence[tuple[BareHost, BareMachine]]


def make_all(batch: Batch, per_host: int, timeout_s: float = 600.0) -> None:
    """Make all machines. Raises what the first one raises that fails; the others are made. TimedOut."""
    within(timeout_s, lambda: _on_each(batch, per_host, BareHost.make), "making machines by the bare loop")


def remove_all(batch: Batch, per_host: int, timeout_s: float = 600.0) -> None:
    """Remove all machines; raises as `make_all`."""
    within(
        timeout_s, lambda: _on_each(batch, per_host, BareHost.remove), "removing machines by the bare loop"
    )


def _on_each(batch: Batch, per_host: int, act: Callable[[BareHost, BareMachine], None]) -> None:
    pools = {id(host): ThreadPoolExecutor(per_host) for host, _ in batch}
    futures = [pools[id(host)].submit(act, host, machine) for host, machine in batch]
    for pool in pools.values():
        pool.shutdown()
    for future in futures:
        future.result()


@contextmanager
def connected(
    hosts: Sequence[HostRef], access: Access, listener: Listener | None = None
) -> Iterator[dict[str, BareHost]]:
    """Connections to hosts, by name. Raises HostUnreachable."""
    found: dict[str, BareHost] = {}
    try:
        for host in hosts:
            found[host.name] = _connect(host, access, listener)
        yield found
    finally:
        for one in found.values():
            one.conn.close()
            one.ssh.close()


def _connect(host: HostRef, access: Access, listener: Listener | None) -> BareHost:
    address = address_of(host.uri)
    client = paramiko.SSHClient()
    try:
        client.load_host_keys(str(access.known_hosts_file))
        client.connect(
            address.host,
            address.port,
            address.user,
            key_filename=str(access.key_file),
            timeout=access.connect_timeout_s,
            allow_agent=False,
            look_for_keys=False,
        )
        conn = within(access.connect_timeout_s, lambda: libvirt.open(host.uri), f"connecting to {host.name}")
    except (paramiko.SSHException, OSError, EOFError) as error:
        client.close()
        raise HostUnreachable(f"The bare loop cannot connect to {host.name}: {error!r}.") from error
    except libvirt.libvirtError as error:
        client.close()
        raise translate(error, host.name, "connecting") from error
    return BareHost(host.name, conn, client, listener)
