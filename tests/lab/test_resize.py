"""A real guest whose size is changed, asked from inside what it has."""

from __future__ import annotations

import pytest

from tests.flows import run
from tests.lab.datacenter import Datacenter
from tests.lab.web import Guest
from vdc.inventory import read_session
from vdc.schema import Operation, Vm
from vdc.states import VmState

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(400)]


def resize(of: Guest, **sizes: int) -> dict[str, str]:
    """What came when; what was still to come is among it."""
    done = run.resize(of.name, **sizes)
    with read_session(of.datacenter.url) as session:
        told = session.get_one(Operation, done).result or {}
        runs = session.query(Vm.state).filter(Vm.name == of.name).scalar() == VmState.RUNNING
    # Its root is no disk: it cannot do what it was asked for, but its agent has tried.
    assert ("has no cloud-init" in told["root"]) is (runs and "disk_mib" in sizes), told
    return {change["what"]: change["when"] for change in told["changes"]}


def cpus(of: Guest) -> int:
    return int(of.sh("nproc"))


def memory_kib(of: Guest) -> int:
    return int(of.sh("grep MemTotal /proc/meminfo").split()[1])


def disk_mib(of: Guest) -> int:
    return int(of.sh("cat /sys/block/vda/size")) // 2048


def test_the_guest_sees_it(datacenter: Datacenter, guest: Guest) -> None:
    boot, memory = guest.boot_id(), memory_kib(guest)
    assert (cpus(guest), disk_mib(guest)) == (1, 32)
    guest.write("one")

    assert resize(guest, memory_mib=88, disk_mib=64) == {"memory_mib": "now", "disk_mib": "now"}
    assert (memory_kib(guest), disk_mib(guest)) == (memory - 8 * 1024, 64)
    assert resize(guest, memory_mib=96) == {"memory_mib": "now"}
    assert memory_kib(guest) == memory
    assert guest.read() == ("one", "one")

    run.migrate("web")
    moved = Guest(datacenter, "web")
    assert moved.host != guest.host
    assert resize(moved, vcpu=3, memory_mib=160) == dict.fromkeys(("vcpu", "memory_mib"), "at its next start")
    assert (cpus(moved), memory_kib(moved), disk_mib(moved)) == (1, memory, 64)
    assert moved.boot_id() == boot, "the same boot, all the time"
    assert run.reconcile() == []

    run.power("stop", "web", timeout_s=60)
    assert resize(moved, disk_mib=80) == dict.fromkeys(("vcpu", "memory_mib", "disk_mib"), "now")
    run.power("start", "web")
    assert moved.boot_id() != boot
    assert (cpus(moved), disk_mib(moved)) == (3, 80)
    assert memory_kib(moved) > memory + 48 * 1024
    assert moved.read() == ("-", "one")
    assert run.reconcile() == []
