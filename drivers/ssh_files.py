"""The files through which hosts are reached by SSH: one key, one list of known hosts, one command.

libvirt's `qemu+ssh` runs the `ssh` program and takes nothing but a key and a command from the URI, so the
trust in host keys (`known_hosts`, strictly checked) is put into a wrapper that the URI names.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from urllib.parse import quote

from vdc.errors import DriverFailure, Refused

KEYGEN_TIMEOUT_S = 20.0


def ensure_ssh_files(ssh_dir: Path, *, connect_timeout_s: int = 10) -> bool:
    """Make the key pair, `known_hosts` (empty), `config` and the `ssh` wrapper in `ssh_dir`.

    Key and known hosts are never overwritten; `config` and wrapper are ours alone and follow this code.
    Returns True if anything was made or changed. Raises Refused if the directory cannot be written, or if
    ssh-keygen is missing, and DriverFailure if it fails.
    """
    try:
        ssh_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        changed = _ensure_key(ssh_dir / "id_ed25519")
        known_hosts = ssh_dir / "known_hosts"
        if not known_hosts.exists():
            known_hosts.touch(mode=0o600)
            changed = True
        changed |= write_if_changed(ssh_dir / "config", _config(ssh_dir, connect_timeout_s), 0o600)
        wrapper = f'#!/bin/sh\nexec ssh -F {shlex.quote(str(ssh_dir / "config"))} "$@"\n'
        return write_if_changed(ssh_dir / "ssh", wrapper, 0o700) or changed
    except OSError as error:
        raise Refused(f"Cannot prepare the SSH files in {ssh_dir}: {error}.") from error


def management_uri(user: str, host: str, port: int, ssh_dir: Path) -> str:
    """libvirt URI of a host reached over SSH with the files of `ssh_dir`; works as it is with `virsh -c`."""
    key, command = quote(str(ssh_dir / "id_ed25519")), quote(str(ssh_dir / "ssh"))
    return f"qemu+ssh://{user}@{host}:{port}/system?keyfile={key}&command={command}"


def write_if_changed(file: Path, content: str, mode: int = 0o644) -> bool:
    """Write a text file whole: a reader sees the old or the new. False if it had this content already."""
    if file.exists() and file.read_text() == content and file.stat().st_mode & 0o777 == mode:
        return False
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(content)
    temporary.chmod(mode)
    temporary.replace(file)
    return True


def _ensure_key(key: Path) -> bool:
    if key.exists():
        return False
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "vdc", "-f", str(key)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=KEYGEN_TIMEOUT_S
        )
    except FileNotFoundError as error:
        raise Refused("ssh-keygen is missing: install the package openssh-client.") from error
    except subprocess.TimeoutExpired as error:
        raise DriverFailure("ssh-keygen did not return.", command=shlex.join(command)) from error
    if done.returncode and not key.exists():  # two processes at once: the other's key is as good
        raise DriverFailure(
            f"No SSH key could be made in {key.parent}: {done.stderr.strip()}",
            command=shlex.join(command),
            stderr=done.stderr,
        )
    return True


def _config(ssh_dir: Path, connect_timeout_s: int) -> str:
    def path(name: str) -> str:
        return '"' + str(ssh_dir / name).replace("%", "%%") + '"'

    return f"""\
# Written by vdc: changes are overwritten.
Host *
    IdentityFile {path("id_ed25519")}
    IdentitiesOnly yes
    UserKnownHostsFile {path("known_hosts")}
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    CheckHostIP no
    BatchMode yes
    ConnectTimeout {connect_timeout_s}
    ServerAliveInterval 5
    ServerAliveCountMax 3
    ForwardAgent no
    ForwardX11 no
    PermitLocalCommand no
    ControlMaster no
    LogLevel ERROR
"""
