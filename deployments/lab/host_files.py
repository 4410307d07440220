"""What lies under a host's private /etc: the settings of sshd, libvirtd and QEMU, keys and names."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from deployments.lab.layout import Layout, service_address
from deployments.programs import run
from drivers.ssh_files import write_if_changed

EMULATOR = f"etc/libvirt/bin/qemu-system-{platform.machine()}"
NWFILTERS = Path("/etc/libvirt/nwfilter")
HOST_KEY = "etc/ssh/ssh_host_ed25519_key"
ROOT_KEY = "root/.ssh/id_ed25519"


def write_keys(directory: Path) -> None:
    """The host's own key, and the key with which its root reaches the other hosts."""
    for key in (directory / HOST_KEY, directory / ROOT_KEY):
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not key.exists():
            key.with_name(key.name + ".pub").unlink(missing_ok=True)
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", directory.name, "-f", str(key)])


def write_settings(layout: Layout, host: str, hosts: Sequence[str], *, fast_floor: bool) -> bool:
    """Write all settings; True if any of libvirtd's changed, so that it has to be started again.

    Expects the keys of all `hosts` to be there: each host trusts the others.
    """
    directory = layout.place(host)
    write_if_changed(directory / "etc/hosts", _hosts(hosts))
    write_if_changed(directory / "etc/ssh/sshd_config", _sshd(host))
    write_if_changed(directory / "etc/ssh/authorized_keys", _authorized_keys(layout, hosts), 0o600)
    write_if_changed(directory / "etc/ssh/ssh_known_hosts", _known_hosts(layout, hosts))
    if NWFILTERS.is_dir() and not (directory / "etc/libvirt/nwfilter").exists():
        shutil.copytree(NWFILTERS, directory / "etc/libvirt/nwfilter")
    (directory / EMULATOR).parent.mkdir(exist_ok=True)
    write_if_changed(directory / EMULATOR, Path(__file__).with_name("emulator.sh").read_text(), 0o755)
    changed = write_if_changed(directory / "etc/libvirt/libvirtd.conf", _libvirtd(layout, host))
    return (
        write_if_changed(directory / "etc/libvirt/qemu.conf", _qemu(host, fast_floor=fast_floor)) or changed
    )


def write_names(directory: Path) -> None:
    """/etc/hosts of a place that is no host."""
    write_if_changed(directory / "etc/hosts", _hosts(()))


def public_host_key(directory: Path) -> str:
    """`ssh-ed25519 AAAA...`, without the comment."""
    return " ".join((directory / f"{HOST_KEY}.pub").read_text().split()[:2])


def _hosts(hosts: Sequence[str]) -> str:
    names = "".join(f"{service_address(host)} {host}\n" for host in hosts)
    return f"127.0.0.1 localhost\n::1 localhost\n{names}"


def _authorized_keys(layout: Layout, hosts: Sequence[str]) -> str:
    keys = [layout.ssh_dir / "id_ed25519.pub", *(layout.place(host) / f"{ROOT_KEY}.pub" for host in hosts)]
    return "".join(key.read_text() for key in keys)


def _known_hosts(layout: Layout, hosts: Sequence[str]) -> str:
    return "".join(f"{h},{service_address(h)} {public_host_key(layout.place(h))}\n" for h in hosts)


def _sshd(host: str) -> str:
    """One file for the standing sshd and for the sessions that come through the listener."""
    return f"""\
ListenAddress {service_address(host)}
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile none
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
MaxSessions 100
MaxStartups 500:30:1000
LoginGraceTime 30
Subsystem sftp internal-sftp
"""


def _libvirtd(layout: Layout, host: str) -> str:
    """TCP without authentication, to migrate peer to peer: that network ends in the namespaces."""
    return f"""\
listen_tls = 0
listen_tcp = 1
listen_addr = "{service_address(host)}"
auth_tcp = "none"
auth_unix_rw = "none"
auth_unix_ro = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0770"
host_uuid = "{layout.host_uuid(host)}"
max_clients = 500
max_anonymous_clients = 100
min_workers = 4
max_workers = 40
max_client_requests = 40
log_outputs = "2:file:/var/log/libvirt/libvirtd.log"
"""


def _qemu(host: str, *, fast_floor: bool) -> str:
    """No cgroups, namespaces or security driver: those are the machine's, and shared by all hosts."""
    filters = 'capability_filters = [ "cpu-unavailable-features" ]\n' if fast_floor else ""
    return f"""\
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
security_default_confined = 0
cgroup_controllers = [ ]
namespaces = [ ]
stdio_handler = "file"
migration_host = "{service_address(host)}"
migration_address = "{service_address(host)}"
vnc_listen = "{service_address(host)}"
{filters}"""
