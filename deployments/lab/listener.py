"""A host's management port: hands every connection on a loopback address to an sshd inside the host.

A program, run by path with the standard library alone: listener.py ADDRESS PORT STATE_DIRECTORY. It stands in
the root namespace and looks up the host's first process for every connection, so that it survives the host.
Exits 0 once it listens, leaving a daemon behind, or 1 with a message. SIGTERM ends it and every session.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading

BACKLOG = 512

sessions: set[subprocess.Popen[bytes]] = set()
lock = threading.Lock()


def started(pid: int) -> str:
    """`pid starttime`, or "" if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return f"{pid} {stat.read().rpartition(')')[2].split()[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return ""


def host_pid() -> int | None:
    try:
        with open("reaper.pid") as file:
            written = file.read()
    except FileNotFoundError:
        return None
    pid = int(written.split()[0])
    return pid if started(pid) == written else None


def serve(connection: socket.socket) -> None:
    with connection:
        pid = host_pid()
        if pid is None:
            print("refused a connection: the host is down", flush=True)
            return
        enter = ["nsenter", f"--target={pid}", "--mount", "--net", "--uts", "--"]
        sshd = ["/usr/sbin/sshd", "-i", "-f", "/etc/ssh/sshd_config", "-E", "/var/log/sshd.log"]
        session = subprocess.Popen(enter + sshd, stdin=connection.fileno(), stdout=connection.fileno())
    with lock:
        sessions.add(session)
    session.wait()
    with lock:
        sessions.discard(session)


def stop(listening: socket.socket) -> None:
    """Close the port first: the kernel may finish this process's threads later than its first one."""
    listening.close()
    for session in list(sessions):
        session.terminate()
    os._exit(0)


def main() -> int:
    address, port, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    os.chdir(directory)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((address, port))
    except OSError as error:
        print(f"Cannot listen on {address}:{port}: {error}", file=sys.stderr)
        return 1
    listening.listen(BACKLOG)
    if os.fork():
        return 0
    os.setsid()
    signal.signal(signal.SIGTERM, lambda *_: stop(listening))
    log = os.open("listener.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    with open(".listener.pid", "w") as file:
        file.write(started(os.getpid()))
    os.replace(".listener.pid", "listener.pid")
    while True:
        connection, _ = listening.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
