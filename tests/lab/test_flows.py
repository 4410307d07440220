"""The flows on real hosts: what breaks is taken back, what is killed is finished, and nothing is left."""

from __future__ import annotations

import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.lab import host_files
from tests.flows import run
from tests.flows.engine import Engine
from tests.flows.processes import Processes, processes
from tests.lab.datacenter import Datacenter
from vdc.errors import Conflict, OperationFailed, Unready
from vdc.inventory import read_session
from vdc.schema import Image, Vm
from vdc.states import HOLDING

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.prefect, pytest.mark.timeout(300)]

KILLED_TIMES = 5
MADE = {"ensure network", "ensure disk", "ensure seed", "define", "start"}


@pytest.fixture
def start(datacenter: Datacenter, engine: Engine) -> Iterator[Processes]:
    names = ("HOME", "PREFECT_API_URL", "DATABASE_URL", "OPERATION_LEASE_S")
    with processes({f"VDC_{name}": os.environ[f"VDC_{name}"] for name in names}, engine) as made:
        yield made


def _break_image(datacenter: Datacenter) -> Callable[[], object]:
    with read_session(datacenter.url) as session:
        image = datacenter.store / session.query(Image.file).filter(Image.name == "tiny").scalar()
    hidden = image.with_name(f"hidden-{image.name}")
    image.rename(hidden)
    return lambda: hidden.rename(image)


def _break_emulator(datacenter: Datacenter) -> Callable[[], object]:
    """QEMU of h1 ends at once: libvirt cannot ask it what it offers, and defines nothing."""
    emulator = f"/{host_files.EMULATOR}"
    datacenter.on_host("h1", "mount", "--bind", "/bin/false", emulator)
    return lambda: datacenter.on_host("h1", "umount", emulator)


def _break_taps(datacenter: Datacenter) -> Callable[[], object]:
    """h1 cannot make a network card's port."""
    datacenter.on_host("h1", "mount", "--bind", "/dev/null", "/dev/net/tun")
    return lambda: datacenter.on_host("h1", "umount", "/dev/net/tun")


def _break_logs(datacenter: Datacenter) -> Callable[[], object]:
    """h1 cannot write a machine's log, so that what was defined does not start."""
    logs = "/var/log/libvirt/qemu"
    datacenter.on_host("h1", "mount", "-t", "tmpfs", "-o", "ro", "tmpfs", logs)
    return lambda: datacenter.on_host("h1", "umount", logs)


@pytest.mark.parametrize(
    ("step", "break_it"),
    [
        ("ensure network", _break_taps),
        ("ensure disk", _break_image),
        ("define", _break_emulator),
        ("start", _break_logs),
    ],
)
def test_a_failed_step_is_taken_back_and_named(
    clean: Datacenter, step: str, break_it: Callable[[Datacenter], Callable[[], object]]
) -> None:
    mend = break_it(clean)
    try:
        with pytest.raises(OperationFailed) as failed:
            run.deploy(count=2, name="web", start="paused", policy="spread")
    finally:
        mend()
    assert f"'{step}'" in str(failed.value)
    assert re.search(r"on host h[12] failed", str(failed.value))
    clean.assert_agrees()
    # An image that is away is away for both hosts; else the machine on h2 is none the worse.
    assert clean.live() == ([] if step == "ensure disk" else ["web-2"])


def test_termination_of_a_machine_whose_host_is_cut_off_is_finished_later(clean: Datacenter) -> None:
    from deployments.lab import control

    run.deploy(count=1, name="web", start="paused")
    with read_session(clean.url) as session:
        spec = session.query(Vm).filter(Vm.name == "web").filter(Vm.state.in_(HOLDING)).one().spec
    host, lab_id = spec["host"]["name"], clean.lab.lab.lab_id
    control.disconnect_host(lab_id, host)
    try:
        with pytest.raises(OperationFailed, match=f"host {host}"):
            run.terminate("web")
        assert clean.live() == ["web"], "its domain may run there: it keeps its place"
        found = run.reconcile()
        assert any(f.what == "host unreachable" for f in found)
        assert clean.live() == ["web"]
    finally:
        control.reconnect_host(lab_id, host)
    run.reconcile()
    assert clean.live() == []
    clean.assert_agrees()


def test_killed_at_random_points_reconcile_finishes(clean: Datacenter, start: Processes) -> None:
    chance = random.Random(20261122)
    survivors = 0
    for n in range(KILLED_TIMES):
        child = start.start(run.deploy_request, {"count": 3, "name": f"k{n}", "start": "paused"})
        _wait_for(lambda n=n: [name for name in clean.live() if name.startswith(f"k{n}-")])
        # The claim is made; from here a deployment takes one to two seconds.
        pause_s = chance.uniform(0.0, 1.5)
        child.process.join(pause_s)
        child.kill()
        run.reconcile()
        clean.assert_agrees()
        survivors += len([name for name in clean.live() if name.startswith(f"k{n}-")])
        run.terminate(*clean.live())
    assert survivors == 3 * KILLED_TIMES, "what was begun is taken forward"


def test_scale_test_with_its_floor_leaves_nothing(clean: Datacenter, tmp_path: Path) -> None:
    from reports import scale_files

    assert run.scale_test(count=4, repetitions=1, out=str(tmp_path / "out"))
    clean.assert_agrees()
    assert clean.live() == []
    frames, about = scale_files.read(tmp_path / "out")
    assert about["no_floor"] == ""
    counted = frames.phases[frames.phases["repetition"] == 1]
    for side, phases in (
        ("ours", {*MADE, "remove domain", "remove ports", "record"}),
        ("floor", {*MADE, "remove domain", "remove ports", "remove files"}),
    ):
        own = counted[counted["side"] == side]
        assert own["vm_id"].nunique() == 4
        assert own.groupby("phase")["vm_id"].nunique().loc[sorted(phases)].tolist() == [4] * len(phases)
        # QEMU cannot be started in less: the floor's machines were real ones.
        assert own[own["phase"] == "start"]["duration_s"].min() > 0.01
    seen = frames.samples[frames.samples["kind"] == "host"]
    assert seen["cpu_total_s"].notna().all()
    assert seen["machines"].max() >= 1
    assert "times as long" in (tmp_path / "out" / "report.html").read_text()


def test_a_bare_loop_that_fails_is_cleaned_and_told(
    clean: Datacenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seed's directory is gone for the floor alone: disks are made by then, domains are not."""
    from dataclasses import replace

    import tasks.floor as floor
    from reports import scale_files

    bare_machine = floor.bare_machine
    monkeypatch.setattr(
        floor, "bare_machine", lambda spec: replace(bare_machine(spec), seed="/nosuch/directory/seed.iso")
    )
    with pytest.raises(OperationFailed, match=r"The bare loop failed: h[12]: cat > /nosuch.* failed"):
        run.scale_test(count=2, repetitions=1, out=str(tmp_path / "out"))
    clean.assert_agrees()
    assert clean.live() == []
    frames, _ = scale_files.read(tmp_path / "out")
    assert frames.rounds[frames.rounds["side"] == "floor"]["failed"].tolist() == [2]
    assert "There is no floor to compare with" in (tmp_path / "out" / "report.html").read_text()


def test_a_changed_host_key_is_refused(clean: Datacenter, tmp_path: Path) -> None:
    known_hosts = clean.lab.access.known_hosts_file
    right = known_hosts.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    other = " ".join((tmp_path / "key.pub").read_text().split()[:2])
    host = clean.lab.lab.host("h1")
    known_hosts.write_text(f"[{host.address}]:{host.port} {other}\n")
    try:
        with pytest.raises(Unready, match="has changed"):
            run.enroll_host(name="h9", uri=_otherwise(host.uri))
        with pytest.raises(Unready, match="not SHA256:"):
            run.enroll_host(name="h9", uri=_otherwise(host.uri), host_key="SHA256:" + "x" * 43)
        assert known_hosts.read_text() == f"[{host.address}]:{host.port} {other}\n"
    finally:
        known_hosts.write_text(right)


def test_an_unfit_host_is_refused_with_the_reason(clean: Datacenter) -> None:
    host = clean.lab.lab.host("h1")
    with pytest.raises(Unready, match="nobr"):
        run.enroll_host(name="h9", uri=_otherwise(host.uri), networks=["vlan://nobr"])
    with pytest.raises(Conflict, match="one UUID"):
        run.enroll_host(name="h9", uri=_otherwise(host.uri))
    with pytest.raises(Unready, match=r"cannot be reached|No SSH server"):
        run.enroll_host(name="h9", uri="qemu+ssh://root@127.77.255.99:7722/system")


def _otherwise(uri: str) -> str:
    """The same host by another URI: one that the inventory does not know."""
    return f"{uri}&no_tty=1"


def _wait_for(condition: Callable[[], object], deadline_s: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
