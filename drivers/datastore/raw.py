"""Disks as full, sparse copies in a directory: `raw:///srv/vdc/shared`. The copy is made on the host.

A directory that each host has for itself is `raw:///srv/vdc/local?shared=no`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from drivers import ssh as ssh_module
from drivers.contract import Access, DatastoreCapabilities
from drivers.datastore import files
from drivers.datastore.bringing import bring_disk, cat
from drivers.ssh import Ssh
from vdc.errors import Unsupported
from vdc.model import DiskSpec, FileSource, HostRef, ImageSeen, ImageSpec, StorageUse

# cp shares the bytes where the file system can (XFS, btrfs). A qcow2 image has to be unpacked.
_COPY = """
if [ -e "$2" ]; then echo found; exit 0; fi
umask 077
case "$6" in
  '') : > "$3" ;;
  raw) cp --reflink=auto --sparse=always -- "$5" "$3"; chmod 600 -- "$3" ;;
  *) qemu-img convert -q -f "$6" -O raw -- "$5" "$3" ;;
esac
truncate -s ">$4M" -- "$3"
publish "$@"
"""


class RawDatastore:
    """One directory on one host."""

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
        if source.snapshot_id:
            raise Unsupported(f"{source.file} is a raw disk, which holds no snapshots.")
        return files.ensure_image_from(
            self._ssh, self._directory, image, source, call_timeout_s=self._access.call_timeout_s
        )

    def read_image(self, image: ImageSpec) -> ImageSeen:
        return files.read_image(self._ssh, self._directory, image, call_timeout_s=self._access.call_timeout_s)

    def ensure_disk(self, disk: DiskSpec) -> bool:
        image, image_format = (files.plain(disk.image.file), disk.image.format) if disk.image else ("", "")
        copied_mib = disk.image.virtual_size_mib if disk.image else 0
        return files.ensure_made(
            self._ssh,
            _COPY,
            self._directory,
            disk,
            image,
            image_format,
            timeout_s=self._access.call_timeout_s + copied_mib / files.SLOWEST_COPY_MIB,
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
        """The bytes of a raw disk are its guest's alone: it is there, or it is not."""
        return [] if files.exists(self._ssh, self._directory, file) else [files.MISSING]

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        return bring_disk(self, self._ssh, cat(self), source, to, progress, self._access.call_timeout_s)

    def read_sha256(self, file: str) -> str:
        return files.read_sha256(self._ssh, self._directory, file)


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """What the datastore can do, no host asked. Raises Invalid for a malformed `uri`."""
    files.directory_of(uri)
    return DatastoreCapabilities(
        shared=files.is_shared(uri), disk_format="raw", clone="copy", snapshots=False
    )


def datastore(uri: str, host: HostRef, access: Access) -> RawDatastore:
    return RawDatastore(uri, ssh_module.connection(host, access), access)
