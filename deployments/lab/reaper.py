"""The first process of a host: gives it a file system of its own, starts its daemons, buries the dead.

A program, run by path with the standard library alone: reaper.py SPEC, inside the place's network, mount and
UTS namespaces. SPEC is a JSON file whose directory is the place's state directory:

    hostname     string
    mounts       list of [kind, source, target]: `bind` (source relative to the state directory) or `tmpfs`
    directories  made after the mounts
    services     object of name -> argv

It exits 0 once the place runs, leaving a daemon behind, or 1 with a message on standard error. The daemon is
a subreaper, so that machines orphaned by libvirtd are buried at once. On SIGHUP it starts the services that
do not run. `reaper.pid` and `<service>.pid` hold "pid starttime".
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from typing import Any

MS_BIND = 0x1000
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2) itself: mount(8) makes a relative source absolute, which a mount may have hidden by then."""
    done = libc.mount(
        source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    )
    if done != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), target)


def private_view(spec: dict[str, Any]) -> None:
    """Replace all that daemons write to, and /sys, which shows the namespace it was mounted in."""
    libc.umount2(b"/run/netns", MNT_DETACH)  # would keep other labs' namespaces alive
    libc.umount2(b"/sys", MNT_DETACH)
    mount("sysfs", "/sys", "sysfs")
    for kind, source, target in spec["mounts"]:
        if kind == "bind":
            if target.startswith("/srv/"):  # a tmpfs by now; everything else exists
                os.makedirs(target, exist_ok=True)
            mount(source, target, "none", MS_BIND)
        else:
            mount("tmpfs", target, "tmpfs", options=source)
    for directory in spec["directories"]:
        os.makedirs(directory, exist_ok=True)
    socket.sethostname(spec["hostname"])


def write_pid(name: str, pid: int) -> None:
    with open(f"/proc/{pid}/stat") as stat:
        started = stat.read().rpartition(")")[2].split()[19]
    with open(f".{name}.pid", "w") as file:
        file.write(f"{pid} {started}")
    os.replace(f".{name}.pid", f"{name}.pid")


def start(name: str, argv: list[str]) -> int:
    log = os.open(f"{name}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=(), setpgroup=0)
    os.close(log)
    os.close(null)
    write_pid(name, pid)
    return pid


def live(services: dict[str, list[str]], ready: int) -> None:
    watched = {signal.SIGCHLD, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    running = {name: start(name, argv) for name, argv in services.items()}
    write_pid("reaper", os.getpid())
    os.write(ready, b"1")
    os.close(ready)
    while True:
        if signal.sigwait(watched) == signal.SIGHUP:
            for name, argv in services.items():
                if name not in running:
                    running[name] = start(name, argv)
            continue
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            for name in [name for name, its in running.items() if its == pid]:
                print(f"{name} (pid {pid}) ended with status {status}", flush=True)
                del running[name]


def main() -> int:
    os.chdir(os.path.dirname(os.path.abspath(sys.argv[1])))  # stays reachable when a mount hides its path
    with open(os.path.basename(sys.argv[1])) as file:
        spec = json.load(file)
    try:
        private_view(spec)
    except OSError as error:
        print(f"Cannot set up the file system of {spec['hostname']}: {error}", file=sys.stderr)
        return 1
    done, ready = os.pipe()
    if os.fork():
        os.close(ready)
        if os.read(done, 1):
            return 0
        print(f"The services of {spec['hostname']} did not start: see reaper.out.", file=sys.stderr)
        return 1
    os.close(done)
    os.setsid()
    log = os.open("reaper.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    live(spec["services"], ready)
    return 0


if __name__ == "__main__":
    sys.exit(main())
