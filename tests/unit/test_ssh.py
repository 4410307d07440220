"""Commands over SSH against a real sshd on a loopback port."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivers import ssh as ssh_module
from drivers.contract import Access
from drivers.ssh import AccessDenied, Address, HostKeyChanged, HostKeyUnknown, Ssh, address_of, read_host_key
from tests.forked import in_fork
from tests.requires import missing
from vdc.errors import DriverFailure, HostUnreachable, Invalid, TimedOut, Unready

NASTY = ["", " ", "a b", "'", '"', "$(id)", "`id`", ";", "\\", "*", "-n", "é", "a\nb", "!x", "~", "#", "%s"]


@dataclass
class Server:
    """An sshd of the test's own."""

    port: int
    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, getpass.getuser())

    @property
    def known_hosts(self) -> Path:
        return self.directory / "known_hosts"

    def access(self, **changes: Path) -> Access:
        files = {"key_file": self.directory / "id", "known_hosts_file": self.known_hosts, **changes}
        return Access(**files, connect_timeout_s=3.0, call_timeout_s=20.0)

    def sessions(self) -> list[int]:
        """The processes that serve connections."""
        listed = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]


def make_key(file: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def start(directory: Path, port: int) -> subprocess.Popen[bytes]:
    """Start sshd with the keys of `directory`, and wait until it answers."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if sshd is None:
        missing("sshd is not installed (Debian package: openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    # SHLVL: a bash that believes to be a user's first shell reads ~/.bashrc, whatever that does.
    (directory / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {directory}/host\nPidFile none\n"
        f"AuthorizedKeysFile {directory}/id.pub\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "PermitRootLogin yes\nMaxStartups 100\nSetEnv SHLVL=9\n"
    )
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(directory / "config")], stderr=log)
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process
        except OSError:
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)


def stop(server: Server) -> None:
    for pid in [server.process.pid, *server.sessions()]:
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("sshd")
    make_key(directory / "host")
    make_key(directory / "id")
    port = free_port()
    running = Server(port, directory, start(directory, port))
    try:
        running.known_hosts.write_text(read_host_key("127.0.0.1", port)[0] + "\n")
        yield running
    finally:
        stop(running)


@pytest.fixture
def ssh(server: Server) -> Iterator[Ssh]:
    connection = Ssh("h1", server.address, server.access())
    yield connection
    connection.close()


def test_arguments_arrive_as_they_are(ssh: Ssh) -> None:
    output = ssh.run(["printf", "%s\\0", *NASTY])

    assert output.decode().split("\0")[:-1] == NASTY


def test_stdin_and_both_outputs(ssh: Ssh) -> None:
    data = os.urandom(2_000_000)
    much = "cat; head -c 3000000 /dev/zero >&2; head -c 3000000 /dev/zero"

    assert ssh.run(["sha256sum"], stdin=data).split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert ssh.run(["sh", "-c", much], stdin=b"x" * 100_000) == b"x" * 100_000 + bytes(3_000_000)


def test_failure_tells_host_command_and_reason(ssh: Ssh) -> None:
    with pytest.raises(DriverFailure) as caught:
        ssh.run(["ls", "/no such place"], what="looking around")

    assert "h1: looking around failed" in str(caught.value)
    assert "No such file" in caught.value.stderr
    assert caught.value.host == "h1"
    assert caught.value.command == "ls '/no such place'"


def test_command_that_ignores_its_input_is_judged_by_its_status(ssh: Ssh) -> None:
    assert ssh.run(["true"], stdin=bytes(5_000_000)) == b""
    with pytest.raises(DriverFailure):
        ssh.run(["false"], stdin=bytes(5_000_000))


def test_deadline_ends_the_command_on_the_host_too(ssh: Ssh, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    started = time.monotonic()

    with pytest.raises(TimedOut, match="h1: napping did not end within 2 s"):
        ssh.run(["sh", "-c", 'sleep 4; touch "$1"', "sh", str(mark)], timeout_s=2, what="napping")

    assert time.monotonic() - started < 3
    assert ssh.run(["sh", "-c", "sleep 3; echo on"]) == b"on\n"
    assert not mark.exists()


def test_stopped_server_is_noticed_by_the_deadline(server: Server) -> None:
    ssh = Ssh("h1", server.address, server.access())
    ssh.run(["true"])
    pids = server.sessions()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # of one that was about to end
            os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises((TimedOut, HostUnreachable)):
            ssh.run(["true"], timeout_s=1)
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert ssh.run(["echo", "again"]) == b"again\n"
    ssh.close()


def test_broken_connection_is_replaced(server: Server, ssh: Ssh) -> None:
    ssh.run(["true"])
    for pid in server.sessions():
        os.kill(pid, signal.SIGKILL)

    assert ssh.run(["echo", "again"]) == b"again\n"


def test_connection_that_breaks_during_a_command(server: Server, ssh: Ssh) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ssh.run, ["sleep", "20"])
        deadline = time.monotonic() + 10
        while not server.sessions() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        for pid in server.sessions():
            os.kill(pid, signal.SIGKILL)

        with pytest.raises(HostUnreachable, match="h1"):
            running.result(10)


def test_connection_that_breaks_during_an_upload(server: Server, ssh: Ssh, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(256 * 2**20)

    def kill(_done: int, _total: int) -> None:
        for pid in server.sessions():
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(HostUnreachable, match=r"h1.*broke during copying"):
        ssh.upload(large, ["sh", "-c", "cat > /dev/null"], progress=kill, what="copying")


def test_many_threads_share_one_connection(server: Server, ssh: Ssh) -> None:
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda i: ssh.run(["sh", "-c", f"sleep 0.05; echo {i}"]), range(72)))

    assert answers == [f"{i}\n".encode() for i in range(72)]
    assert len(server.sessions()) == 1


def test_child_of_a_fork_has_its_own_connection(server: Server, ssh: Ssh) -> None:
    ssh.run(["true"])
    assert in_fork(lambda: ssh.run(["echo", "child"])) == b"child\n"
    assert ssh.run(["echo", "parent"]) == b"parent\n"


def test_upload(ssh: Ssh, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "a 'target'"
    source.write_bytes(os.urandom(3_333_333))
    seen: list[tuple[int, int]] = []

    ssh.upload_file(source, str(target), lambda done, total: seen.append((done, total)))

    assert target.read_bytes() == source.read_bytes()
    assert seen[-1] == (3_333_333, 3_333_333)
    assert seen == sorted(seen)


def test_upload_of_nothing_and_into_nothing(ssh: Ssh, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        ssh.upload_file(tmp_path / "none", str(tmp_path / "target"))

    (tmp_path / "source").write_bytes(bytes(5_000_000))
    with pytest.raises(DriverFailure, match="irectory"):
        ssh.upload_file(tmp_path / "source", str(tmp_path / "none" / "target"))


def test_host_key_is_read_without_logging_in(server: Server) -> None:
    line, fingerprint = read_host_key("127.0.0.1", server.port)

    kind, key = (server.directory / "host.pub").read_text().split()[:2]
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(server.directory / "host.pub")], capture_output=True, text=True, check=True
    )
    assert line == f"[127.0.0.1]:{server.port} {kind} {key}"
    assert fingerprint == shown.stdout.split()[1]


def test_unknown_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    ssh = Ssh("h1", server.address, server.access(known_hosts_file=tmp_path / "none"))

    with pytest.raises(
        HostKeyUnknown, match=r"host key of h1 .* is not known.*SHA256:.*enroll the host"
    ) as caught:
        ssh.run(["true"])
    assert isinstance(caught.value, Unready)


def test_changed_host_key_is_refused(server: Server, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text().split()[:2]
    (tmp_path / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {' '.join(other)}\n")
    ssh = Ssh("h1", server.address, server.access(known_hosts_file=tmp_path / "known_hosts"))

    with pytest.raises(HostKeyChanged, match=r"host key of h1 .* has changed") as caught:
        ssh.run(["true"])
    assert isinstance(caught.value, Unready)


def test_wrong_key_is_refused_with_what_to_do(server: Server, tmp_path: Path) -> None:
    ssh = Ssh("h1", server.address, server.access(key_file=make_key(tmp_path / "mine")))

    with pytest.raises(AccessDenied, match=r"mine.pub to the authorized_keys"):
        ssh.run(["true"])
    with pytest.raises(Unready, match="There is no SSH key"):
        Ssh("h1", server.address, server.access(key_file=tmp_path / "none")).run(["true"])


def test_closed_port_is_unreachable(server: Server) -> None:
    closed = Ssh("h1", Address("127.0.0.1", free_port(), "root"), server.access())

    with pytest.raises(HostUnreachable, match="Connection refused"):
        closed.run(["true"])
    with pytest.raises(HostUnreachable):
        read_host_key("127.0.0.1", closed.address.port)


def test_server_that_says_nothing_is_unreachable_in_time(server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(HostUnreachable):
            Ssh("h1", Address("127.0.0.1", port, "root"), server.access()).run(["true"])
        with pytest.raises(HostUnreachable):
            read_host_key("127.0.0.1", port, 1.0)

    assert time.monotonic() - started < 8


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("qemu+ssh://root@h1/system", Address("h1", 22, "root")),
        ("qemu+ssh://h1.example/system?keyfile=/k", Address("h1.example", 22, "root")),
        ("qemu+ssh://adm%40x@127.77.0.11:7722/system?command=/s", Address("127.77.0.11", 7722, "adm@x")),
        ("qemu+ssh://root@[fd00::1]:23/system", Address("fd00::1", 23, "root")),
    ],
)
def test_address_of_a_uri(uri: str, address: Address) -> None:
    assert address_of(uri) == address


@pytest.mark.parametrize("uri", ["qemu:///system", "h1", "", "qemu+ssh:///system", "qemu+ssh://h1:x/system"])
def test_uri_without_an_ssh_server(uri: str) -> None:
    with pytest.raises(Invalid):
        address_of(uri)


def test_paramiko_is_quiet(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostUnreachable):
        ssh_module.Ssh("h1", Address("127.0.0.1", free_port(), "root"), server.access()).run(["true"])

    assert capfd.readouterr().err == ""
