"""A real guest whose size is changed, asked from inside what it has."""

from __future__ import annotations

import pytest

from tests.flows import run
from tests.lab.datacenter import Datacenter
from tests.lab.guests import BOOT_TIMEOUT_S, wait_for
from tests.lab.test_snapshots import Guest, guest
from vdc.inventory import read_session
from vdc.schema import Operation

__all__ = ["guest"]

pytestmark = [pytest.mark.lab, pytest.mark.prefect, pytest.mark.timeout(400)]


def resize(of: Guest, **sizes: int) -> dict[str, str]:
    """What came when."""
    done = run.resize(of.name, **sizes)
    with read_session(of.datacenter.url) as session:
        told = session.get_one(Operation, done).result or {}
    return {change["what"]: change["when"] for change in told["changes"]}


def cpus(of: Guest, expected: int) -> None:
    """A CPU that is plugged in is put to work by a script of the guest, in its own time."""
    wait_for(lambda: int(of.sh("nproc")) == expected, f"{expected} CPUs", BOOT_TIMEOUT_S)


def memory_kib(of: Guest) -> int:
    return int(of.sh("grep MemTotal /proc/meminfo").split()[1])


def disk_mib(of: Guest) -> int:
    return int(of.sh("cat /sys/block/vda/size")) // 2048


def test_the_guest_sees_it(clean: Datacenter, guest: Guest) -> None:
    boot, memory = guest.boot_id(), memory_kib(guest)
    cpus(guest, 1)
    assert disk_mib(guest) == 32
    guest.write("one")

    assert resize(guest, vcpu=3, memory_mib=88, disk_mib=64) == dict.fromkeys(
        ("vcpu", "memory_mib", "disk_mib"), "now"
    )
    cpus(guest, 3)
    assert memory_kib(guest) == memory - 8 * 1024
    assert disk_mib(guest) == 64
    assert resize(guest, memory_mib=96) == {"memory_mib": "now"}
    assert memory_kib(guest) == memory
    assert guest.read() == ("one", "one")

    run.migrate("web")
    moved = Guest(clean, "web")
    assert moved.host != guest.host
    cpus(moved, 3)
    assert moved.boot_id() == boot, "the same boot, all the time"

    assert resize(moved, vcpu=6, memory_mib=160) == dict.fromkeys(("vcpu", "memory_mib"), "at its next start")
    cpus(moved, 3)
    assert run.reconcile() == []
    run.power("stop", "web", timeout_s=60)
    assert resize(moved, disk_mib=80) == {"disk_mib": "now"}
    run.power("start", "web")
    assert moved.boot_id() != boot
    cpus(moved, 6)
    assert memory_kib(moved) > memory + 48 * 1024
    assert disk_mib(moved) == 80
    assert moved.read() == ("-", "one")
    assert run.reconcile() == []
