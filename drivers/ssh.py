"""Commands on a host over SSH: every argument quoted, every host key checked, every wait bounded."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
import shlex
import socket
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import paramiko

from drivers.contract import Access
from vdc.errors import Busy, DriverFailure, HostUnreachable, Invalid, TimedOut, Unready
from vdc.model import HostRef

# paramiko logs tracebacks of what it also raises; the raised form is the one that is reported.
logging.getLogger("paramiko").setLevel(logging.CRITICAL)

KEEPALIVE_S = 5
SILENCE_S = 15
"""A peer that acknowledges nothing for this long is gone (TCP_USER_TIMEOUT)."""
SESSIONS = 5
"""Commands at once on a connection. sshd's MaxSessions is 10, and it may still count as many closed ones.
More are no faster on a host of 2 cores: 3.5 ms a command with 8, 3.7 ms with 4."""
SLOWEST_UPLOAD = 2**20
"""Bytes a second below which an upload is given up."""
_CHUNK = 2**18


class HostKeyUnknown(Unready):
    """The host's key was never accepted."""


class HostKeyChanged(Unready):
    """The host shows another key than the accepted one."""


class AccessDenied(Unready):
    """The host does not accept our key."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a host's SSH server listens, and as whom we come."""

    host: str
    port: int
    user: str

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def known_hosts_name(self) -> str:
        return known_hosts_name(self.host, self.port)


def known_hosts_name(host: str, port: int) -> str:
    """How OpenSSH names a host in a known_hosts file."""
    return host if port == 22 else f"[{host}]:{port}"


def address_of(uri: str) -> Address:
    """The SSH address in a libvirt URI such as `qemu+ssh://root@h1:22/system`. Raises Invalid."""
    try:
        parts = urlsplit(uri)
        port = parts.port or 22
    except ValueError as error:
        raise Invalid(f"Host URI {uri!r}: {error}.") from error
    if not parts.scheme.endswith("+ssh") or not parts.hostname:
        raise Invalid(
            f"Host URI {uri!r} does not name an SSH server: it should be qemu+ssh://USER@HOST/system."
        )
    return Address(parts.hostname, port, unquote(parts.username or "root"))


def peer_of(host: HostRef) -> str:
    """`root@10.0.0.2`: how other hosts reach this one by SSH. Raises Invalid where nothing says so."""
    address = host.migration_address
    name = urlsplit(address).hostname if "://" in address else address
    parts = urlsplit(host.uri)
    if not (name or parts.hostname):
        raise Invalid(f"Host {host.name} has no migration address: other hosts cannot reach it.")
    return f"{unquote(parts.username or 'root')}@{name or parts.hostname}"


def fingerprint(key: bytes) -> str:
    """The fingerprint of a public key's wire form, as ssh-keygen shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def read_host_key(host: str, port: int = 22, timeout_s: float = 10.0) -> tuple[str, str]:
    """The host's public key as (known_hosts line, fingerprint), without logging in.

    Raises HostUnreachable.
    """
    try:
        with _socket(host, port, timeout_s) as sock:
            transport = paramiko.Transport(sock)
            try:
                transport.banner_timeout = timeout_s
                transport.start_client(timeout=timeout_s)
                key = transport.get_remote_server_key()
            finally:
                transport.close()
    except (OSError, EOFError, paramiko.SSHException) as error:
        raise HostUnreachable(f"No SSH server answers on {host}:{port}: {_reason(error)}.") from error
    line = f"{known_hosts_name(host, port)} {key.get_name()} {key.get_base64()}"
    return line, fingerprint(key.asbytes())


class Ssh:
    """One SSH connection to one host, opened when first needed and again when it broke.

    Safe to use from several threads, each command on a channel of its own. After a fork the child opens
    its own connection.
    """

    def __init__(self, name: str, address: Address, access: Access) -> None:
        self.name = name
        self.address = address
        self._access = access
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._client: paramiko.SSHClient | None = None
        self._connecting = threading.Lock()
        self._slots = threading.BoundedSemaphore(SESSIONS)

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None, what: str = ""
    ) -> bytes:
        """Run a command on the host and return its standard output.

        `what` names the act in error messages (default: the command's name). The command is ended on the
        host too when the deadline passes, so that what a caller has given up cannot happen later.
        Raises HostUnreachable, Busy, TimedOut, DriverFailure (exit status not 0).
        """
        timeout_s = timeout_s or self._access.call_timeout_s
        return self._execute(argv, lambda channel: _send(channel, stdin), timeout_s, what or argv[0])

    def download(
        self, argv: Sequence[str], take: Callable[[bytes], object], *, timeout_s: float, what: str
    ) -> None:
        """Run a command and hand its standard output to `take`, piece by piece. Raises what `run` raises."""
        self._execute(argv, lambda channel: True, timeout_s, what, take)

    def upload(
        self,
        source: Path,
        argv: Sequence[str],
        *,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float | None = None,
        what: str = "",
        on_request: bool = False,
    ) -> bytes:
        """Run a command with the local file `source` as its standard input; return its standard output.

        `on_request`: nothing is sent before the command says `ready` in a line of its own; one that says
        something else is sent nothing. (A command that ends while much is on its way to it may cost the
        connection: what arrives for a session that is closed makes sshd disconnect.)

        `timeout_s` bounds a standstill; the whole may take as much longer as `SLOWEST_UPLOAD` allows.
        Memory use does not depend on the size. Raises what `run` raises, and Invalid
        if `source` cannot be read.
        """
        try:
            file = source.open("rb")
        except OSError as error:
            raise Invalid(f"{source} cannot be read: {_reason(error)}.") from error
        total = os.fstat(file.fileno()).st_size
        standstill_s = timeout_s or self._access.call_timeout_s
        said = bytearray()

        def feed(channel: paramiko.Channel) -> bool:
            channel.settimeout(standstill_s)
            if on_request:
                while not said.endswith(b"\n") and (byte := channel.recv(1)):
                    said.extend(byte)
                if said != b"ready\n":
                    return False
                said.clear()
            done = 0
            while chunk := file.read(_CHUNK):
                if not _send(channel, chunk):
                    return False
                done += len(chunk)
                if progress:
                    progress(done, total)
            return True

        with file:
            output = self._execute(argv, feed, standstill_s + total / SLOWEST_UPLOAD, what or argv[0])
        return bytes(said) + output

    def upload_file(
        self, source: Path, remote_path: str, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Copy a local file to `remote_path`, which is left half-written if this fails."""
        self.upload(source, ["sh", "-c", 'cat > "$1"', "sh", remote_path], progress=progress)

    def open_tcp(self, address: str, port: int) -> paramiko.Channel:
        """A connection from the host to a port that it can reach.

        Raises HostUnreachable, DriverFailure (nobody listens there, or the host forbids forwarding).
        """
        timeout_s = self._access.connect_timeout_s
        transport = self._transport(time.monotonic() + 4 * timeout_s)
        try:
            # The last pair says where we come from: it is for the host's log alone.
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=timeout_s
            )
        except paramiko.ChannelException as error:
            raise DriverFailure(
                f"{self.name}: no connection to {address}:{port} from there: {_reason(error)}.",
                host=self.name,
            ) from error
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise HostUnreachable(
                f"{self.name} ({self.address}) answers no more: {_reason(error)}."
            ) from error

    def check(self) -> None:
        """Connect, or see that we are connected.

        Raises HostUnreachable, HostKeyUnknown, HostKeyChanged, AccessDenied.
        """
        self._transport(time.monotonic() + 4 * self._access.connect_timeout_s)

    def close(self) -> None:
        """Close the connection; the next command opens a new one."""
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _execute(
        self,
        argv: Sequence[str],
        feed: Callable[[paramiko.Channel], bool],
        timeout_s: float,
        what: str,
        take: Callable[[bytes], object] | None = None,
    ) -> bytes:
        """Returns the standard output, unless it went to `take`. `feed`: whether the command reads on."""
        command = shlex.join(argv)
        deadline = time.monotonic() + timeout_s
        if not self._slots.acquire(timeout=timeout_s):
            raise Busy(
                f"{self.name}: {SESSIONS} commands have been running for {timeout_s:g} s; "
                f"{what} did not start."
            )
        try:
            channel = self._open(deadline)
            left_s = max(deadline - time.monotonic(), 0.1)
            watchdog = _Watchdog(left_s, channel)
            try:
                # One second of grace, so that it is the host that reports the time-out if it can.
                channel.exec_command(f"timeout -k 2 {max(left_s - 1, 0.1):.1f} {command}")
                if feed(channel):
                    _end_input(channel)
                output = bytearray()
                stderr = _read(channel, take or output.extend)
                status = channel.recv_exit_status()
            except (OSError, EOFError, paramiko.SSHException) as error:
                if watchdog.fired or isinstance(error, TimeoutError):
                    raise self._timed_out(what, timeout_s) from error
                raise HostUnreachable(
                    f"The connection to {self.name} ({self.address}) broke during {what}: {_reason(error)}."
                ) from error
            finally:
                watchdog.stop()
                # Of a connection that has broken even this may fail, and would hide what was said of it.
                with suppress(OSError, EOFError, paramiko.SSHException):
                    channel.close()
        finally:
            self._slots.release()
        if watchdog.fired or status == 124:
            raise self._timed_out(what, timeout_s)
        if status == -1 and not self._alive():
            raise HostUnreachable(f"The connection to {self.name} ({self.address}) broke during {what}.")
        if status != 0:
            text = stderr.decode(errors="replace").strip()
            raise DriverFailure(
                f"{self.name}: {what} failed with status {status}: {text or 'it gave no reason'}",
                host=self.name,
                command=command,
                stderr=text,
            )
        return bytes(output)

    def _timed_out(self, what: str, timeout_s: float) -> TimedOut:
        return TimedOut(f"{self.name}: {what} did not end within {timeout_s:g} s.")

    def _alive(self) -> bool:
        client = self._client
        transport = client.get_transport() if client else None
        return bool(transport and transport.is_active())

    def _open(self, deadline: float) -> paramiko.Channel:
        """A new channel. A connection that turns out to be broken is replaced once: nothing has run yet."""
        for last in (False, True):
            transport = self._transport(deadline)
            try:
                return transport.open_session(timeout=max(deadline - time.monotonic(), 0.1))
            except paramiko.ChannelException as error:
                raise Busy(
                    f"{self.name} ({self.address}) opens no more sessions: {_reason(error)}."
                ) from error
            except (OSError, EOFError, paramiko.SSHException) as error:
                if last or transport.is_active():
                    raise HostUnreachable(
                        f"{self.name} ({self.address}) answers no more: {_reason(error)}."
                    ) from error
        raise AssertionError("unreachable")

    def _transport(self, deadline: float) -> paramiko.Transport:
        if not self._connecting.acquire(timeout=max(deadline - time.monotonic(), 0.1)):
            raise HostUnreachable(
                f"No connection to {self.name} ({self.address}) yet: another thread still tries."
            )
        try:
            if self._client is not None and not self._alive():
                self._client.close()
                self._client = None
            if self._client is None:
                self._client = self._connect()
            transport = self._client.get_transport()
            assert transport is not None, "connected just now"
            return transport
        finally:
            self._connecting.release()

    def _connect(self) -> paramiko.SSHClient:
        key_file, known_hosts = self._access.key_file, self._access.known_hosts_file
        if not key_file.exists():
            raise Unready(f"There is no SSH key {key_file} to reach {self.name} with.")
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Refuse(self.name, self.address, known_hosts))
        if known_hosts.exists():
            client.load_host_keys(str(known_hosts))
        timeout_s = self._access.connect_timeout_s
        try:
            sock = _socket(self.address.host, self.address.port, timeout_s)
        except OSError as error:
            raise HostUnreachable(
                f"{self.name} ({self.address}) cannot be reached: {_reason(error)}."
            ) from error
        try:
            client.connect(
                self.address.host,
                self.address.port,
                self.address.user,
                key_filename=str(key_file),
                sock=sock,
                timeout=timeout_s,
                banner_timeout=timeout_s,
                auth_timeout=timeout_s,
                channel_timeout=timeout_s,
                allow_agent=False,
                look_for_keys=False,
            )
        except (OSError, EOFError, paramiko.SSHException, Unready) as error:
            client.close()
            sock.close()
            self._explain(error)
        transport = client.get_transport()
        assert transport is not None, "connected just now"
        transport.set_keepalive(KEEPALIVE_S)
        return client

    def _explain(self, error: Exception) -> NoReturn:
        """Raise what a failed connect means to the user."""
        if isinstance(error, paramiko.BadHostKeyException):
            raise HostKeyChanged(
                f"The host key of {self.name} ({self.address}) has changed: it was "
                f"{fingerprint(error.expected_key.asbytes())}, now it is {fingerprint(error.key.asbytes())}. "
                f"Nothing was sent. If the host was installed anew, remove {self.address.known_hosts_name} "
                f"from {self._access.known_hosts_file} and enroll it again; if not, something stands between "
                "you and it."
            ) from error
        if isinstance(error, paramiko.AuthenticationException):
            raise AccessDenied(
                f"{self.name} ({self.address}) does not let {self.address.user} in with "
                f"{self._access.key_file}: {_reason(error)}. Add {self._access.key_file}.pub to "
                f"the authorized_keys of {self.address.user} there."
            ) from error
        if isinstance(error, Unready):
            raise error
        raise HostUnreachable(
            f"No SSH connection to {self.name} ({self.address}): {_reason(error)}."
        ) from error


class _Refuse(paramiko.MissingHostKeyPolicy):
    def __init__(self, name: str, address: Address, known_hosts: Path) -> None:
        self._name, self._address, self._known_hosts = name, address, known_hosts

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> NoReturn:
        raise HostKeyUnknown(
            f"The host key of {self._name} ({self._address}) is not known: it shows "
            f"{fingerprint(key.asbytes())}. Compare this with `ssh-keygen -lf "
            f"/etc/ssh/ssh_host_ed25519_key.pub` on the host's own console, then "
            f"enroll the host; accepted keys are in {self._known_hosts}."
        )


class _Watchdog:
    """Closes a channel at its deadline, which wakes whoever waits on it (paramiko's exec has no timeout)."""

    def __init__(self, timeout_s: float, channel: paramiko.Channel) -> None:
        self.fired = False
        self._channel = channel
        self._timer = threading.Timer(timeout_s, self._fire)
        self._timer.daemon = True
        self._timer.start()

    def _fire(self) -> None:
        self.fired = True
        self._channel.close()

    def stop(self) -> None:
        self._timer.cancel()


def _socket(host: str, port: int, timeout_s: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Together with SSH's keepalives this notices a host that vanished without a word.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_S * 1000)
    return sock


def _end_input(channel: paramiko.Channel) -> None:
    """Send the end of input, unless the channel is closed.

    `channel.shutdown_write` may send it after the close that answers the command's end: OpenSSH then cuts the
    whole connection ("ieof packet referred to nonexistent channel"), with all that others do over it. With
    the lock held until it is sent, that close waits.
    """
    transport: Any = channel.get_transport()
    guarded: Any = channel
    with guarded.lock:
        message = guarded._send_eof()
        if message is not None:
            transport._send_user_message(message)


def _send(channel: paramiko.Channel, data: bytes) -> bool:
    """Send all of `data`; False if the command stopped reading, whose exit status then tells why."""
    try:
        channel.sendall(data)
    except TimeoutError:
        raise
    except OSError:
        if channel.get_transport().is_active():
            return False
        raise
    return True


def _read(channel: paramiko.Channel, take: Callable[[bytes], object]) -> bytes:
    """Both outputs until their end, the first one to `take`; returns the second one.

    They share one window, so neither may be left to fill up.
    """
    stderr = bytearray()
    channel.settimeout(0.5)
    while True:
        try:
            chunk = channel.recv(_CHUNK)
        except TimeoutError:
            chunk = None
        while channel.recv_stderr_ready():
            stderr += channel.recv_stderr(_CHUNK)
        if chunk == b"":
            break
        if chunk:
            take(chunk)
    channel.settimeout(None)
    while chunk := channel.recv_stderr(_CHUNK):
        stderr += chunk
    return bytes(stderr)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(getattr(error, "strerror", None) or error).strip().rstrip(".")
    return text or type(error).__name__


_all: weakref.WeakSet[Ssh] = weakref.WeakSet()
_pool: dict[tuple[str, str, Access], Ssh] = {}
_pool_lock = threading.Lock()
_inherited: list[paramiko.SSHClient | None] = []


def connection(host: HostRef, access: Access) -> Ssh:
    """This process's connection to `host`, shared by all who ask. Raises Invalid for a URI without SSH."""
    address = address_of(host.uri)
    with _pool_lock:
        key = (host.name, host.uri, access)
        found = _pool.get(key)
        if found is None:
            found = _pool[key] = Ssh(host.name, address, access)
        return found


def close_all() -> None:
    """Close this process's connections."""
    with _pool_lock:
        connections = list(_pool.values())
        _pool.clear()
    for ssh in connections:
        ssh.close()


def _after_fork() -> None:
    """The child forgets the parent's connections without closing them: their sockets are shared."""
    global _pool_lock
    _pool_lock = threading.Lock()
    for ssh in _all:
        _inherited.append(ssh._client)
        ssh._reset()


os.register_at_fork(after_in_child=_after_fork)
