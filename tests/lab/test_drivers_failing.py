"""What the real drivers do when a host, its libvirt or the way to it breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.lab import control
from drivers.contract import Access
from drivers.hypervisor import libvirt as libvirt_driver
from drivers.hypervisor.libvirt import LibvirtHypervisor
from drivers.ssh import HostKeyChanged, HostKeyUnknown, Ssh, address_of
from tests.forked import in_fork
from tests.lab_fixture import LabAccess
from vdc.errors import HostUnreachable, TimedOut
from vdc.model import HostRef

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def _home(lab: LabAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab is found by its home."""
    monkeypatch.setenv("VDC_HOME", str(lab.lab.home))


def open_hypervisor(host: HostRef, access: Access) -> LibvirtHypervisor:
    return LibvirtHypervisor(host, access, Ssh(host.name, address_of(host.uri), access))


@pytest.fixture
def hypervisor(lab: LabAccess) -> Iterator[LibvirtHypervisor]:
    """The first host's, whose lab is made whole again afterwards."""
    hypervisor = open_hypervisor(lab.host(), lab.access)
    yield hypervisor
    hypervisor.close()
    control.up(lab.lab.lab_id, hosts=2)


def libvirtd_of(lab: LabAccess) -> int:
    """The host's daemon: the only libvirtd in the host's network namespace."""
    namespace = os.readlink(f"/proc/{lab.lab.host('h1').pid}/ns/net")
    found = subprocess.run(["pgrep", "-x", "libvirtd"], capture_output=True, text=True, check=True)
    pids = [int(p) for p in found.stdout.split() if os.readlink(f"/proc/{p}/ns/net") == namespace]
    assert len(pids) == 1
    return pids[0]


def eventually(call: object, timeout_s: float = 15.0) -> object:
    """Repeat what raises HostUnreachable, as tasks do."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return call()  # type: ignore[operator]
        except HostUnreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_connection_is_replaced_when_libvirt_was_restarted(
    lab: LabAccess, hypervisor: LibvirtHypervisor
) -> None:
    hypervisor.read_domains()

    control.kill_service(lab.lab.lab_id, "h1", "libvirtd")
    with pytest.raises(HostUnreachable, match="h1"):
        hypervisor.read_domains()
    control.up(lab.lab.lab_id, hosts=2)

    eventually(hypervisor.read_domains)


def test_host_that_is_cut_off_is_unreachable_and_comes_back(
    lab: LabAccess, hypervisor: LibvirtHypervisor
) -> None:
    ssh = Ssh("h1", address_of(lab.host().uri), lab.access)
    hypervisor.read_domains()
    ssh.run(["true"])

    control.disconnect_host(lab.lab.lab_id, "h1")
    for call in (hypervisor.read_domains, hypervisor.read_facts, lambda: ssh.run(["true"])):
        with pytest.raises(HostUnreachable, match="h1"):
            call()
    control.reconnect_host(lab.lab.lab_id, "h1")

    eventually(hypervisor.read_domains)
    ssh.run(["true"])


def test_hung_libvirt_does_not_hang_us(lab: LabAccess, hypervisor: LibvirtHypervisor) -> None:
    patient = open_hypervisor(lab.host(), replace(lab.access, call_timeout_s=1.0))
    patient.read_domains()
    daemon = libvirtd_of(lab)
    os.kill(daemon, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(TimedOut, match="h1: listing its domains did not return within 1 s"):
            patient.read_domains()
        assert time.monotonic() - started < 2
    finally:
        os.kill(daemon, signal.SIGCONT)
    assert patient.read_domains() == hypervisor.read_domains()
    patient.close()


def test_keepalive_notices_a_hung_libvirt_before_a_long_deadline(
    lab: LabAccess, hypervisor: LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt_driver, "KEEPALIVE_S", 1)
    watched = open_hypervisor(lab.host(), lab.access)
    watched.read_domains()
    daemon = libvirtd_of(lab)
    os.kill(daemon, signal.SIGSTOP)
    try:
        with pytest.raises(HostUnreachable, match="h1"):
            watched.read_domains()
    finally:
        os.kill(daemon, signal.SIGCONT)
    eventually(watched.read_domains)
    watched.close()


def test_host_key_trouble_is_told_clearly_when_libvirt_connects(lab: LabAccess, tmp_path: Path) -> None:
    """Through a wrapper like the lab's, whose known_hosts is empty, then wrong."""
    known_hosts, wrapper = tmp_path / "known_hosts", tmp_path / "ssh"
    known_hosts.touch()
    wrapper.write_text(
        "#!/bin/sh\nexec ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes "
        f'-o UserKnownHostsFile={known_hosts} "$@"\n'
    )
    wrapper.chmod(0o755)
    good = lab.host()
    host = replace(good, uri=f"{good.uri.split('?')[0]}?keyfile={lab.access.key_file}&command={wrapper}")
    access = replace(lab.access, known_hosts_file=known_hosts)

    with pytest.raises(HostKeyUnknown):
        open_hypervisor(host, access).read_domains()

    other = lab.lab.host("h2").host_key.split()[1:]
    name = lab.lab.host("h1").host_key.split()[0]
    known_hosts.write_text(" ".join([name, *other]) + "\n")
    with pytest.raises(HostKeyChanged, match=r"host key of h1 .* has changed"):
        open_hypervisor(host, access).read_domains()


def test_child_of_a_fork_is_refused_and_leaves_the_connection_whole(
    lab: LabAccess, hypervisor: LibvirtHypervisor
) -> None:
    before = hypervisor.read_facts().hostname
    with pytest.raises(AssertionError, match="Unsupported: libvirt was in use already when this process was"):
        in_fork(lambda: hypervisor.read_facts().hostname)
    assert hypervisor.read_facts().hostname == before


def test_threads_share_a_connection(hypervisor: LibvirtHypervisor) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: hypervisor.read_domain("vm-none"), range(200)))

    assert answers == [None] * 200


def test_nothing_is_printed_not_even_at_the_end(lab: LabAccess) -> None:
    code = f"""
        from pathlib import Path
        from drivers import registry
        from drivers.contract import Access
        from vdc.errors import HostUnreachable, NotFound
        from vdc.model import HostRef
        access = Access(Path({str(lab.access.key_file)!r}), Path({str(lab.access.known_hosts_file)!r}))
        hypervisor = registry.hypervisor(HostRef("h1", {lab.host().uri!r}), access)
        try:
            hypervisor.ensure_started("vm-none")
        except NotFound:
            pass
        try:
            registry.hypervisor(HostRef("h9", "qemu+ssh://root@127.0.0.1:1/system"), access).read_domains()
        except HostUnreachable:
            print("done")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
