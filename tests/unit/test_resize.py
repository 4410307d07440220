"""What may be told of a change of size before it is tried."""

from __future__ import annotations

import pytest

from vdc.claims.resize import Resize, foresee
from vdc.model import ContextSpec, DiskSpec, HostRef, ShapeSeen, Size, VmSpec, vcpu_room
from vdc.operations import Claim

SPEC = VmSpec(
    vm_id="5f6497f5-f9c0-4bca-b054-d73d9ce81d8b",
    name="web",
    tenant="acme",
    site="lab",
    host=HostRef("h1", "simulated:///dc.db?host=h1"),
    vcpu=2,
    memory_mib=96,
    disks=(DiskSpec(0, "qcow2:///srv/vdc", "disk0.qcow2", "qcow2", 32),),
    nics=(),
    context=ContextSpec("web"),
    seed_datastore_uri="qcow2:///srv/vdc",
    seed_file="seed.iso",
)
RUNS = ShapeSeen(True, vcpu=2, min_vcpu=2, max_vcpu=4, memory_mib=96, max_memory_mib=96, disks_mib=(32,))
PLUGGED = ShapeSeen(True, vcpu=2, min_vcpu=1, max_vcpu=4, memory_mib=96, max_memory_mib=128, disks_mib=(32,))
OFF = ShapeSeen(False, 2, 2, 4, 96, 96, (32,))

IF = "else at its next start"
CASES = {
    "more vCPU": (Size(4, 96, 32), RUNS, "vcpu", "now", ""),
    "beyond its room": (Size(5, 96, 32), RUNS, "vcpu", "at its next start", "room for 4"),
    "fewer than it began with": (Size(1, 96, 32), RUNS, "vcpu", "at its next start", "started with 2, which"),
    "plugged in before": (Size(1, 96, 32), PLUGGED, "vcpu", "now", IF),
    "less memory": (Size(2, 64, 32), RUNS, "memory_mib", "now", IF),
    "memory it had": (Size(2, 128, 32), PLUGGED, "memory_mib", "now", IF),
    "more memory": (Size(2, 128, 32), RUNS, "memory_mib", "at its next start", "started with 96 MiB"),
    "disk": (Size(2, 96, 64), RUNS, "disk_mib", "now", "root file system too, else at its next boot"),
    "disk, off": (Size(2, 96, 64), OFF, "disk_mib", "now", ""),
    "off": (Size(16, 96, 32), OFF, "vcpu", "now", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_what_comes_when_and_why(case: str) -> None:
    wanted, seen, what, when, why = CASES[case]
    (told,) = foresee(Resize(Claim("", 1), SPEC, wanted), seen)
    assert (told["what"], told["when"]) == (what, when)
    assert why in told["why"]
    assert bool(why) == bool(told["why"])


def test_room_for_more_vcpus_has_a_bound_and_is_never_less_than_there_are() -> None:
    assert [vcpu_room(n) for n in (1, 2, 3, 8, 200, 255, 300)] == [4, 4, 6, 16, 255, 255, 300]
