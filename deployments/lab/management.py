"""Start, stop and ask for the loopback listeners through which the control plane reaches the hosts."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from deployments.lab.layout import MANAGEMENT_PORT, Layout, management_address
from deployments.lab.processes import read_pid
from deployments.lab.system import wait_until
from deployments.programs import run

TIMEOUT_S = 10.0


def ensure_listener(layout: Layout, number: int, host: str) -> bool:
    """Make the host reachable; returns when an sshd inside it has greeted."""
    directory = layout.place(host)
    started = read_pid(directory / "listener.pid") is None
    address = management_address(number, host)
    if started:
        environment = [f"{key}={value}" for key, value in layout.environment.items()]
        program = str(Path(__file__).with_name("listener.py"))
        run(
            [
                *("env", "--ignore-environment", *environment),
                *(sys.executable, "-I", "-S", program, address, str(MANAGEMENT_PORT), str(directory)),
            ],
            host=host,
        )
    wait_until(
        lambda: greets(address),
        f"sshd of {host} answers on {address}:{MANAGEMENT_PORT}",
        timeout_s=TIMEOUT_S,
        logs=[directory / "listener.out", directory / "var/log/sshd.log"],
        host=host,
    )
    return started


def stop_listener(layout: Layout, host: str) -> bool:
    """Make the host unreachable, established sessions included; False if it was."""
    pid = read_pid(layout.place(host) / "listener.pid")
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    wait_until(
        lambda: read_pid(layout.place(host) / "listener.pid") is None,
        f"The listener of {host} ended",
        timeout_s=TIMEOUT_S,
        host=host,
    )
    return True


def greets(address: str) -> bool:
    """True if what listens there is an SSH server."""
    try:
        with socket.create_connection((address, MANAGEMENT_PORT), timeout=TIMEOUT_S) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
