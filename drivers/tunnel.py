"""A loopback port of this machine that leads, through SSH, to a port that only a host can reach."""

from __future__ import annotations

import contextlib
import select
import socket
import threading

import paramiko

from drivers.ssh import Ssh
from vdc.errors import Conflict, VdcError

CHUNK = 65536


class Tunnel:
    """Listens from the start; `serve` carries connections until it is interrupted or closed."""

    def __init__(self, ssh: Ssh, address: str, port: int, *, local_port: int = 0) -> None:
        """`local_port` 0: any that is free. Raises Conflict where the port is taken."""
        self._ssh, self._target = ssh, (address, port)
        self.error = ""
        """Why the last connection was not carried."""
        try:
            self._listener = socket.create_server(("127.0.0.1", local_port))
        except OSError as error:
            raise Conflict(f"Port {local_port} of 127.0.0.1 is not free: {error.strerror}.") from error
        self.local_port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        """Carry connections, each in a thread of its own."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._carry, args=(connection,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # closed before
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._listener.close()

    def _carry(self, connection: socket.socket) -> None:
        with connection:
            try:
                channel = self._ssh.open_tcp(*self._target)
            except VdcError as error:
                self.error = str(error)
                return
            with channel, contextlib.suppress(OSError):  # one of the two went away: so does the other
                _pump(connection, channel)


def _pump(connection: socket.socket, channel: paramiko.Channel) -> None:
    """Both ways, until one side ends."""
    both: list[socket.socket | paramiko.Channel] = [connection, channel]
    while True:
        ready, _, _ = select.select(both, [], [])
        if connection in ready:
            data = connection.recv(CHUNK)
            if not data:
                return
            channel.sendall(data)
        if channel in ready:
            data = channel.recv(CHUNK)
            if not data:
                return
            connection.sendall(data)
