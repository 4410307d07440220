"""What things of a lab are called and where they lie. Pure: reads and changes nothing."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from vdc.errors import Invalid
from vdc.settings import load as load_settings

MAX_HOSTS = 4
MANAGEMENT_PORT = 7722
SERVICE_PREFIX = 24
OUTSIDE = "outside"
SWITCH = "sw"
FILES = "files"
"""The file server."""
EC2 = "ec2"
"""State directory of the lab's cloud."""

MARK_LAB = "VDC_LAB"
MARK_HOME = "VDC_LAB_HOME"
"""Every process of a lab carries both variables; together they say whose it is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Names and paths of one lab. `home` is the VDC_HOME it belongs to."""

    lab_id: str
    home: Path
    ssh_dir: Path

    @classmethod
    def of(cls, lab_id: str) -> Layout:
        """Layout of a lab in the present VDC_HOME. Raises Invalid for a malformed id."""
        if not re.fullmatch(r"[a-z0-9]{1,8}", lab_id):
            raise Invalid(f"A lab's id is one to eight of a-z and 0-9, not {lab_id!r}.")
        settings = load_settings()
        return cls(lab_id, settings.home, settings.ssh_dir)

    @property
    def state(self) -> Path:
        return self.home / "lab" / self.lab_id

    @property
    def lock_file(self) -> Path:
        """Beside `state`, so that removing `state` does not take the lock away from those who wait."""
        return self.home / "lab" / f"{self.lab_id}.lock"

    @property
    def description(self) -> Path:
        return self.state / "lab.json"

    @property
    def datastore(self) -> Path:
        """Directory that every host sees as /srv/vdc/shared."""
        return self.state / "datastore"

    @property
    def namespace_prefix(self) -> str:
        return f"vdc-{self.lab_id}-"

    @property
    def environment(self) -> dict[str, str]:
        """Whole environment of the lab's processes: nothing is inherited from whoever typed `up`."""
        return {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            MARK_LAB: self.lab_id,
            MARK_HOME: str(self.home),
        }

    def namespace(self, place: str) -> str:
        return self.namespace_prefix + place

    def place(self, name: str) -> Path:
        """State directory of a host, of `outside`, or of the file server."""
        return self.state / name

    def host_uuid(self, host: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"vdc-lab:{self.home}:{self.lab_id}:{host}"))


def host_names(count: int) -> tuple[str, ...]:
    return tuple(f"h{index}" for index in range(1, count + 1))


def service_address(host: str) -> str:
    """Address on the service network: exists inside the lab's namespaces only."""
    return f"10.77.0.1{host.removeprefix('h')}"


def management_address(number: int, host: str) -> str:
    """Loopback address of a host's listener; `number` is the lab's own on this machine."""
    return f"127.77.{number}.1{host.removeprefix('h')}"
