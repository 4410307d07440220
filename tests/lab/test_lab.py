"""The lab itself: it comes up, is repaired, is reachable by loopback alone, and goes without a trace."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import libvirt
import paramiko
import pytest

from deployments.lab import control
from deployments.lab.layout import Layout
from deployments.lab.leftovers import leftovers
from deployments.lab.processes import members, namespaces, select_lab
from deployments.lab.state import Lab, load
from tests.lab.guests import wait_for
from vdc.errors import Conflict, Invalid, NotFound

pytestmark = pytest.mark.lab

CHECKOUT = Path(__file__).resolve().parents[2]


def virsh(own_lab: Lab, host: str, *command: str) -> subprocess.CompletedProcess[str]:
    argv = ["virsh", "-c", own_lab.host(host).uri, *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def connect(own_lab: Lab, host: str) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.load_host_keys(str(own_lab.home / "ssh" / "known_hosts"))
    target = own_lab.host(host)
    client.connect(
        target.address,
        target.port,
        "root",
        key_filename=str(own_lab.home / "ssh" / "id_ed25519"),
        look_for_keys=False,
    )
    return client


def execute(client: paramiko.SSHClient, command: str) -> str:
    _, out, err = client.exec_command(command, timeout=30)
    text = out.read().decode()
    assert out.channel.recv_exit_status() == 0, err.read().decode()
    return text.strip()


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "interfaces.cli.lab", *words]
    return subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)


def start_up(lab_id: str) -> subprocess.Popen[bytes]:
    """`vdc lab up` as a process of its own, to be killed."""
    argv = [sys.executable, "-m", "interfaces.cli.main", "lab", "up", "--lab", lab_id]
    return subprocess.Popen(argv, cwd=CHECKOUT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def test_a_second_up_changes_nothing(own_lab: Lab) -> None:
    again = control.up(own_lab.lab_id)
    assert again == own_lab
    assert again.state == "up"
    assert [host.name for host in again.hosts] == ["h1", "h2"]


def test_the_uri_works_as_it_stands_and_each_host_is_itself(own_lab: Lab) -> None:
    names = [virsh(own_lab, host.name, "hostname").stdout.strip() for host in own_lab.hosts]
    assert names == ["h1", "h2"]
    uuids = {libvirt.open(host.uri).getCapabilities().partition("<uuid>")[2][:36] for host in own_lab.hosts}
    assert len(uuids) == 2


def test_an_unknown_host_key_is_refused(own_lab: Lab) -> None:
    (own_lab.home / "ssh" / "known_hosts").write_text("")
    done = virsh(own_lab, "h1", "hostname")
    assert done.returncode != 0
    assert "Host key verification failed" in done.stderr


def test_status_names_what_enrolment_needs(own_lab: Lab) -> None:
    done = cli("status", "--lab", own_lab.lab_id, "--json")
    seen = json.loads(done.stdout)
    assert seen["state"] == "up"
    assert seen["datastore"] == str(own_lab.datastore)
    first = seen["hosts"][0]
    assert first["uri"] == own_lab.host("h1").uri
    assert first["host_key"].startswith(f"[{first['address']}]:7722 ssh-ed25519 ")
    scanned = subprocess.run(["ssh-keyscan", "-p", "7722", first["address"]], capture_output=True, text=True)
    assert first["host_key"] in scanned.stdout
    assert first["fingerprint"].startswith("SHA256:")


def test_many_channels_files_and_both_datastores(own_lab: Lab) -> None:
    client = connect(own_lab, "h1")
    channels = [client.exec_command("hostname") for _ in range(30)]
    assert {out.read().decode().strip() for _, out, _ in channels} == {"h1"}
    with client.open_sftp() as sftp:
        for directory in ("/srv/vdc/shared", "/srv/vdc/local"):
            with sftp.open(f"{directory}/from-h1", "w") as file:
                file.write("h1")
    other = connect(own_lab, "h2")
    assert execute(other, "cat /srv/vdc/shared/from-h1; ls /srv/vdc/local") == "h1"
    assert execute(client, "ssh h2 hostname; virsh -c qemu+tcp://h2/system hostname").split() == ["h2", "h2"]


def test_what_a_host_writes_stays_in_its_state_directory(own_lab: Lab) -> None:
    client = connect(own_lab, "h1")
    places = ("/etc/libvirt", "/var/lib/libvirt", "/var/log", "/run", "/tmp", "/root", "/srv", "/var/tmp")
    execute(client, " && ".join(f"touch {place}/of-vdc-{own_lab.lab_id}" for place in places))
    assert [place for place in places if Path(f"{place}/of-vdc-{own_lab.lab_id}").exists()] == []


def test_nothing_can_leave_the_machine(own_lab: Lab) -> None:
    for name in namespaces(Layout.of(own_lab.lab_id)):
        routes = subprocess.run(["ip", "-n", name, "route"], capture_output=True, text=True).stdout
        assert "default" not in routes
        assert " via " not in routes


def test_an_unreachable_host_lives_on(own_lab: Lab) -> None:
    client = connect(own_lab, "h1")
    assert control.disconnect_host(own_lab.lab_id, "h1")
    target = own_lab.host("h1")
    with socket.socket() as attempt:
        assert attempt.connect_ex((target.address, target.port)) != 0
    wait_for(lambda: not client.get_transport().is_active(), "the established session is cut")  # type: ignore[union-attr]
    degraded = load(own_lab.lab_id).host("h1")
    assert (degraded.state, degraded.missing) == ("degraded", ("listener",))
    assert control.reconnect_host(own_lab.lab_id, "h1")
    assert load(own_lab.lab_id).host("h1") == target


@pytest.mark.parametrize("service", ["libvirtd", "sshd", "ovs-vswitchd", "ovsdb-server"])
def test_up_brings_a_killed_daemon_back(own_lab: Lab, service: str) -> None:
    assert control.kill_service(own_lab.lab_id, "h1", service)
    assert load(own_lab.lab_id).host("h1").missing == (service,)
    control.up(own_lab.lab_id)
    repaired = load(own_lab.lab_id).host("h1")
    assert repaired.state == "up"
    assert repaired.pid == own_lab.host("h1").pid
    assert virsh(own_lab, "h1", "hostname").stdout.strip() == "h1"


def test_up_brings_a_dead_host_back_with_its_keys_and_definitions(own_lab: Lab) -> None:
    xml = "<domain type='qemu'><name>kept</name><memory>4096</memory><os><type>hvm</type></os></domain>"
    connection = libvirt.open(own_lab.host("h2").uri)
    connection.defineXML(xml)
    control.kill_host(own_lab.lab_id, "h2")
    dead = load(own_lab.lab_id)
    assert (dead.host("h1").state, dead.host("h2").state) == ("up", "down")
    ping = ["ping", "-c1", "-W1", "10.77.0.12"]
    inside = ["ip", "netns", "exec", Layout.of(own_lab.lab_id).namespace("h1"), *ping]
    assert subprocess.run(inside, capture_output=True).returncode != 0
    control.up(own_lab.lab_id)
    assert load(own_lab.lab_id).host("h2").host_key == own_lab.host("h2").host_key
    assert "kept" in virsh(own_lab, "h2", "list", "--all", "--name").stdout
    virsh(own_lab, "h2", "undefine", "kept")


def test_a_lab_grows_but_keeps_its_hosts(spare_id: str) -> None:
    two = control.up(spare_id)
    four = control.up(spare_id, hosts=4)
    assert [host.pid for host in four.hosts[:2]] == [host.pid for host in two.hosts]
    assert len(control.up(spare_id, hosts=2).hosts) == 4


def test_two_labs_side_by_side_do_not_touch_each_other(own_lab: Lab, spare_id: str) -> None:
    other = control.up(spare_id)
    assert not {host.address for host in other.hosts} & {host.address for host in own_lab.hosts}
    control.down(spare_id, purge=True)
    assert load(own_lab.lab_id) == own_lab


def test_the_id_of_another_home_is_taken(
    own_lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    with pytest.raises(Conflict, match=str(own_lab.home)):
        control.up(own_lab.lab_id)
    with pytest.raises(Conflict, match=str(own_lab.home)):
        control.down(own_lab.lab_id)


@pytest.mark.parametrize("delay_s", [0.15, 0.5, 0.8, 1.1, 1.5])
def test_down_leaves_nothing_after_a_crash_of_up(spare_id: str, delay_s: float) -> None:
    """Killed at different depths; the delay only chooses where, it waits for nothing."""
    up = start_up(spare_id)
    crash = threading.Timer(delay_s, lambda: os.kill(up.pid, signal.SIGKILL))
    crash.start()
    up.wait()
    crash.cancel()
    control.down(spare_id, purge=True)
    assert leftovers(spare_id) == []


def test_up_after_a_crash_of_up(spare_id: str) -> None:
    layout = Layout.of(spare_id)
    up = start_up(spare_id)
    try:
        wait_for(lambda: any(members(select_lab(layout))), "first process of the lab")
    finally:
        up.kill()
        up.wait()
    assert control.up(spare_id).state == "up"


def test_down_spares_a_process_that_only_names_the_lab(spare_id: str) -> None:
    control.up(spare_id)
    bystander = subprocess.Popen(["sleep", "60"], env={"VDC_LAB": spare_id, "VDC_LAB_HOME": "/elsewhere"})
    try:
        control.down(spare_id, purge=True)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_down_keeps_disks_and_keys_unless_it_purges(spare_id: str) -> None:
    before = control.up(spare_id)
    (before.datastore / "disk").write_text("content")
    control.down(spare_id)
    assert load(spare_id).state == "down"
    after = control.up(spare_id)
    assert (after.datastore / "disk").read_text() == "content"
    assert [host.uri for host in after.hosts] == [host.uri for host in before.hosts]
    assert [host.fingerprint for host in after.hosts] == [host.fingerprint for host in before.hosts]
    control.down(spare_id, purge=True)
    with pytest.raises(NotFound):
        load(spare_id)


def test_up_and_down_are_quick(spare_id: str) -> None:
    began = time.monotonic()
    control.up(spare_id)
    up_s = time.monotonic() - began
    began = time.monotonic()
    control.down(spare_id, purge=True)
    down_s = time.monotonic() - began
    assert up_s < 10
    assert down_s < 2


@pytest.mark.parametrize("lab_id", ["", "Demo", "a-b", "ninechars", "../x"])
def test_a_malformed_id_is_refused(lab_id: str) -> None:
    with pytest.raises(Invalid):
        control.up(lab_id)
