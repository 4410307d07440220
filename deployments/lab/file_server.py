"""An NFS server of the lab: a place of its own on the service network, which hosts reach and do not mount.

The kernel may know no NFS, as server or as client: nfs-ganesha serves in user space, and QEMU opens its
disks there by itself. It serves NFS 3 alone, which is what QEMU speaks, and that needs rpcbind.
"""

from __future__ import annotations

from pathlib import Path

from deployments.lab import host_files, links, place
from deployments.lab.layout import FILES, SERVICE_PREFIX, SWITCH, Layout
from deployments.lab.processes import read_pid
from deployments.lab.system import wait_until
from drivers.ssh_files import write_if_changed

ADDRESS = "10.77.0.2"
EXPORT = "/export"
URI = f"nfs://{ADDRESS}{EXPORT}"
SETTINGS = "root/ganesha.conf"
LOG = "var/log/ganesha.log"
READY_TIMEOUT_S = 30.0
PORT, MOUNT_PORT = 2049, 20048
_LISTENING = "0A"

PACKAGES = {"ganesha.nfsd": "nfs-ganesha", "rpcbind": "rpcbind"}
"""Program -> Debian package."""

# The directory that the place has for itself, as hosts have their local datastore. Nothing is remembered of
# what is in it: a test may put something there behind its back.
_SETTINGS = f"""\
NFS_CORE_PARAM {{
  Protocols = 3; Enable_NLM = false; Enable_RQUOTA = false; mount_path_pseudo = true;
  NFS_Port = {PORT}; MNT_Port = {MOUNT_PORT}; Bind_addr = {ADDRESS};
}}
MDCACHE {{ Dir_Chunk = 0; }}
NFSV4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = /run/ganesha; }}
EXPORT {{
  Export_Id = 1; Path = /srv/vdc/local; Pseudo = {EXPORT};
  Attr_Expiration_Time = 0; Access_Type = RW; Squash = No_Root_Squash; SecType = sys; Protocols = 3;
  FSAL {{ Name = VFS; }}
}}
"""

# It gives up where it cannot register with rpcbind.
_SERVE = f"""
mkdir -p /run/ganesha
until [ -S /run/rpcbind.sock ]; do sleep 0.05; done
exec ganesha.nfsd -F -f /{SETTINGS} -L /{LOG} -p /run/ganesha.pid -N NIV_EVENT
"""


def services() -> dict[str, list[str]]:
    return {"rpcbind": ["/sbin/rpcbind", "-f"], "ganesha": ["/bin/sh", "-c", _SERVE]}


def ensure_file_server(layout: Layout) -> bool:
    """Make it run and serve; False if it did so already."""
    directory = place.prepare(layout, FILES)
    host_files.write_names(directory)
    write_if_changed(directory / SETTINGS, _SETTINGS)
    name = layout.namespace(FILES)
    links.ensure_namespace(name)
    inner, outer = links.End(name, "eth0"), links.End(layout.namespace(SWITCH), "svcfiles")
    links.ensure_link(inner, outer, bridge="svc")
    links.ensure_service_mtu(inner, outer)
    links.ensure_address(name, "eth0", f"{ADDRESS}/{SERVICE_PREFIX}")
    started = place.ensure_running(layout, FILES, services())
    wait_until(
        lambda: serves(layout),
        "The lab's file server serves",
        timeout_s=READY_TIMEOUT_S,
        logs=[directory / LOG, directory / "ganesha.out"],
        host=FILES,
    )
    return started


def serves(layout: Layout) -> bool:
    """Whether somebody listens where it should, in its own network."""
    pid = read_pid(layout.place(FILES) / "reaper.pid")
    if pid is None:
        return False
    lines = [line.split() for kind in ("tcp", "tcp6") for line in _table(pid, kind)]
    ports = {int(line[1].rpartition(":")[2], 16) for line in lines if line[3] == _LISTENING}
    return {PORT, MOUNT_PORT} <= ports


def _table(pid: int, kind: str) -> list[str]:
    return Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
