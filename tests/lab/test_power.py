"""Real guests switched on and off, asked from inside whether they are still the same boot."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from deployments.lab.probe import Probe, open_probe
from drivers import registry
from tests.flows import run
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, says, wait_for
from tests.typist import typing
from vdc import specs
from vdc.inventory import read_session
from vdc.schema import Nic, Operation, Vm
from vdc.states import HOLDING

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Guest:
    """A machine of the datacenter, seen from its VLAN, from its host and from the inventory."""

    place: Datacenter
    probe: Probe
    name: str

    def row(self) -> tuple[Vm, str]:
        with read_session(self.place.url) as session:
            vm = session.query(Vm).filter(Vm.name == self.name, Vm.state.in_(HOLDING)).one()
            return vm, session.query(Nic.address).filter(Nic.vm_id == vm.id).scalar()

    def boot_id(self, other_than: str = "") -> str:
        """Of the boot that answers now; waits for another one than that."""

        def look() -> str:
            seen = says(self.probe, self.row()[1]).get("boot_id", "")
            return seen if seen != other_than else ""

        return wait_for(look, f"{self.name} answers", BOOT_TIMEOUT_S)

    def domain(self) -> str:
        """The state, as virsh says."""
        vm, _ = self.row()
        host = vm.spec["host"]["name"]
        saved = self.place.on_host(host, "virsh", "list", "--all", "--with-managed-save", "--name")
        state = self.place.on_host(host, "virsh", "domstate", f"vm-{vm.id}").strip()
        return f"{state}, saved" if f"vm-{vm.id}" in saved.split() else state

    def power(self, verb: str, **options: Any) -> str | None:
        """How it went, where there is something to tell."""
        batch = run.power(verb, self.name, **options)
        with read_session(self.place.url) as session:
            (operation,) = session.query(Operation).filter(Operation.parent_id == batch)
            return (operation.result or {}).get("how")

    def run(self, command: str) -> None:
        """By its agent, once it has one."""
        row, _ = self.row()
        hypervisor = registry.hypervisor(specs.load(row.spec).host, self.place.lab.access)
        hypervisor.run_in_guest(f"vm-{row.id}", ["/bin/sh", "-c", command], timeout_s=BOOT_TIMEOUT_S)

    def wait_for_acpid(self) -> None:
        """Until it listens to the power button."""
        self.run("until pidof acpid; do usleep 100000; done")

    def listens_no_more(self) -> None:
        """Neither its agent, by which it is told so, nor what waits for the power button."""
        # Later, so that the agent has answered.
        self.run("(sleep 1; killall acpid qemu-ga; hostname deaf-now) >/dev/null 2>&1 &")
        wait_for(
            lambda: says(self.probe, self.row()[1]).get("hostname") == "deaf-now",
            "it listens no more",
            BOOT_TIMEOUT_S,
        )

    def hears(self) -> None:
        """Wait, at its console, until a shell answers: by then it listens to the power button too."""
        with typing(["vm", "console", self.name], os.environ) as terminal:
            terminal.wait_for(b"Ctrl-] ends it.")

            def answered() -> bool:
                terminal.type(b"\recho here-$((40 + 2))\r")
                try:
                    terminal.wait_for(b"here-42", deadline_s=2)
                except AssertionError:
                    return False
                return True

            wait_for(answered, "a shell on the console", BOOT_TIMEOUT_S)
            terminal.type(b"\x1d")
            terminal.wait_for(f"Detached from {self.name}.".encode())
            assert terminal.end() == 0
            assert terminal.attributes() == terminal.before


@pytest.fixture
def probe(clean: Datacenter) -> Probe:
    return open_probe(clean.lab.lab.lab_id, 300, "10.3.0.250/24")


def test_the_same_boot_or_another(clean: Datacenter, probe: Probe) -> None:
    run.deploy(name="web")
    web = Guest(clean, probe, "web")
    first = web.boot_id()
    web.hears()
    assert web.domain() == "running"

    web.power("pause")
    assert web.domain() == "paused"
    assert says(probe, web.row()[1]) == {}
    web.power("resume")
    assert web.boot_id() == first

    web.power("suspend")
    assert web.domain() == "shut off, saved"
    assert run.reconcile() == []
    web.power("resume")
    assert web.domain() == "running"
    assert web.boot_id() == first

    web.listens_no_more()
    assert web.power("reboot", timeout_s=2) == "did not reboot within 2 s: reset"
    second = web.boot_id(other_than=first)
    web.wait_for_acpid()

    assert web.power("reboot", timeout_s=60) is None, "the guest did it itself"
    web.boot_id(other_than=second)
    web.wait_for_acpid()

    assert web.power("stop", timeout_s=60) is None, "the guest did it itself"
    assert web.domain() == "shut off"
    assert run.reconcile() == []
    web.power("start")
    assert web.domain() == "running"
    assert run.reconcile() == []


def test_a_guest_that_does_not_listen_is_powered_off(clean: Datacenter, probe: Probe) -> None:
    run.deploy(name="web", template="still")
    web = Guest(clean, probe, "web")
    assert web.power("stop", timeout_s=2) == "did not shut down within 2 s: powered off"
    assert web.domain() == "shut off"
    assert run.reconcile() == []


def test_the_screen_through_a_tunnel(clean: Datacenter) -> None:
    run.deploy(name="web", start="paused")
    command = [sys.executable, "-m", "interfaces.cli.main", "vm", "vnc", "web", "--tunnel", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tunnel:
        try:
            assert tunnel.stdout is not None
            text = ""
            while not text.endswith("}\n"):
                line = tunnel.stdout.readline()
                assert line, tunnel.stderr.read() if tunnel.stderr else ""
                text += line
            told = json.loads(text)
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", told["local_port"]), timeout=20) as screen:
                    assert screen.recv(12) == b"RFB 003.008\n"
            # Not SIGINT: what a shell without job control runs in the background is deaf to it.
            tunnel.send_signal(signal.SIGTERM)
            assert tunnel.wait(60) == 0
        finally:
            tunnel.kill()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", told["local_port"]), timeout=5)
