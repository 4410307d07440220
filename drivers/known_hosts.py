"""Which host keys are accepted: an administrator gives a fingerprint once, then any other key is refused."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko

from drivers.contract import Access
from drivers.ssh import Address, HostKeyChanged, HostKeyUnknown, fingerprint, read_host_key


def accept_host_key(name: str, address: Address, wanted: str, access: Access) -> bool:
    """See that the key which the host shows is an accepted one; accept it if its fingerprint is `wanted`.

    Returns True where this call accepted it. Raises HostUnreachable; HostKeyUnknown where no fingerprint
    was given for a key not seen before; HostKeyChanged where the key is neither the accepted nor the
    wanted one.
    """
    line, shown = read_host_key(address.host, address.port, access.connect_timeout_s)
    accepted = _fingerprints(address, access.known_hosts_file)
    if wanted and wanted != shown:
        raise HostKeyChanged(
            f"Host {name} ({address}) shows the key {shown}, not {wanted}: nothing was sent to it. "
            "Look at the host's own console before you accept another key."
        )
    if shown in accepted:
        return False
    if accepted and not wanted:
        raise HostKeyChanged(
            f"The host key of {name} ({address}) has changed: it was {', '.join(sorted(accepted))}, "
            f"now it is {shown}. If the host was installed anew, enroll it with --host-key {shown}."
        )
    if not wanted:
        raise HostKeyUnknown(
            f"Host {name} ({address}) shows the key {shown}, which was never accepted. Compare it with "
            "`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host's own console, then add "
            f"--host-key {shown}."
        )
    with _locked(access.known_hosts_file):
        old = access.known_hosts_file.read_text() if access.known_hosts_file.exists() else ""
        kept = [entry for entry in old.splitlines() if entry.split(" ")[0] != address.known_hosts_name]
        new = access.known_hosts_file.with_suffix(".new")
        new.write_text("\n".join([*kept, line]) + "\n")
        new.chmod(0o600)
        new.replace(access.known_hosts_file)
    return True


def _fingerprints(address: Address, file: Path) -> set[str]:
    if not file.exists():
        return set()
    known = paramiko.HostKeys(str(file)).lookup(address.known_hosts_name)
    return {fingerprint(key.asbytes()) for key in known.values()} if known else set()


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
