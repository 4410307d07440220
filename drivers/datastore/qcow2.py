"""Disks as qcow2 overlays on golden images in a directory: `qcow2:///srv/vdc/shared`.

A directory that each host has for itself is `qcow2:///srv/vdc/local?shared=no`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from drivers import ssh as ssh_module
from drivers.contract import Access, DatastoreCapabilities
from drivers.datastore import files
from drivers.datastore.bringing import bring_disk, cat
from drivers.ssh import Ssh
from vdc.errors import Busy
from vdc.model import DiskSpec, FileSource, HostRef, ImageSeen, ImageSpec, StorageUse

# The backing file is named relative to the overlay, so the directory may be mounted elsewhere tomorrow.
_OVERLAY = """
if [ -e "$2" ]; then echo found; exit 0; fi
umask 077
if [ -n "$5" ]; then
  qemu-img create -q -f qcow2 -b "$5" -F "$6" -- "$3" "$4M"
else
  qemu-img create -q -f qcow2 -- "$3" "$4M"
fi
publish "$@"
"""

# Exit status (qemu-img(1)): 0 clean, 2 corrupt, 3 clusters leaked, 1 the check could not be made.
_CHECK = """
set -eu; cd -- "$1"
if [ ! -e "$2" ]; then echo missing; exit 0; fi
code=0; told=$(qemu-img check -f qcow2 -- "$2" 2>&1) || code=$?
printf '%s\\n%s\\n' "$code" "$told"
"""
_VERDICT = re.compile(r"were found on the image|Could not open|Check failed")


class Qcow2Datastore:
    """One directory on one host. A clone writes 200 KB, whatever the image's size."""

    def __init__(self, uri: str, ssh: Ssh, access: Access) -> None:
        self.capabilities = datastore_capabilities(uri)
        self._directory = files.directory_of(uri)
        self._ssh = ssh
        self._access = access

    def path(self, file: str) -> str:
        return f"{self._directory}/{files.plain(file)}"

    def read_use(self) -> StorageUse:
        return files.read_use(self._ssh, self._directory)

    def read_files(self) -> Mapping[str, int]:
        return files.read_files(self._ssh, self._directory)

    def ensure_writable(self) -> bool:
        return files.ensure_writable(self._ssh, self._directory)

    def ensure_image(
        self, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        return files.ensure_image(self._ssh, self._directory, image, source, progress)

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool:
        return files.ensure_image_from(
            self._ssh, self._directory, image, source, call_timeout_s=self._access.call_timeout_s
        )

    def read_image(self, image: ImageSpec) -> ImageSeen:
        return files.read_image(self._ssh, self._directory, image, call_timeout_s=self._access.call_timeout_s)

    def ensure_disk(self, disk: DiskSpec) -> bool:
        image, image_format = (files.plain(disk.image.file), disk.image.format) if disk.image else ("", "")
        return files.ensure_made(
            self._ssh,
            _OVERLAY,
            self._directory,
            disk,
            image,
            image_format,
            timeout_s=self._access.call_timeout_s,
        )

    def ensure_disk_from(self, disk: DiskSpec, source: HostRef) -> bool:
        files.not_movable(disk)

    def ensure_seed(self, file: str, content: bytes) -> bool:
        return files.ensure_written(self._ssh, self._directory, file, content)

    def ensure_removed(self, names: Sequence[str]) -> bool:
        return files.ensure_removed(self._ssh, self._directory, names)

    def ensure_renamed(self, file: str, to: str, *, writable: bool) -> bool:
        return files.ensure_renamed(self._ssh, self._directory, file, to, writable=writable)

    def check_disk(self, file: str) -> list[str]:
        what = f"checking {file} in {self._directory}"
        answer = files.script(
            self._ssh,
            _CHECK,
            self._directory,
            files.plain(file),
            what=what,
            timeout_s=files.WHOLE_FILE_TIMEOUT_S,
        )
        if '"write" lock' in answer:
            raise Busy(f"{self._ssh.name}: {what}: a guest has it open.")
        return findings(answer)

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        return bring_disk(self, self._ssh, cat(self), source, to, progress, self._access.call_timeout_s)

    def read_sha256(self, file: str) -> str:
        return files.read_sha256(self._ssh, self._directory, file)


def findings(answer: str) -> list[str]:
    """What is wrong, by the exit status of `qemu-img check` and what it said after that, or by `missing`."""
    code, _, told = answer.strip().partition("\n")
    if code == "missing":
        return [files.MISSING]
    if code == "0":
        return []
    lines = [line for line in told.splitlines() if line]
    return [line for line in lines if _VERDICT.search(line)] or lines[:3]


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """What the datastore can do, no host asked. Raises Invalid for a malformed `uri`."""
    files.directory_of(uri)
    return DatastoreCapabilities(
        shared=files.is_shared(uri), disk_format="qcow2", clone="overlay", snapshots=True
    )


def datastore(uri: str, host: HostRef, access: Access) -> Qcow2Datastore:
    return Qcow2Datastore(uri, ssh_module.connection(host, access), access)
