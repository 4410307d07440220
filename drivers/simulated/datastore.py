"""A simulated datastore: sizes and backing files without the bytes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from pathlib import Path

from drivers.contract import Access, DatastoreCapabilities
from drivers.simulated import routers
from drivers.simulated.store import Call, datacenter, parse_uri
from drivers.whole_file import written
from vdc.errors import Busy, Invalid, Unsupported
from vdc.model import DiskSpec, FileSource, HostRef, ImageSeen, ImageSpec, StorageUse

ROOT = "/simulated"
"""Where datastores appear on every simulated host: `/simulated/<datastore>/<file>`."""
OVERLAY_BYTES = 196_616
"""An empty qcow2 overlay's size, as qemu-img makes it."""
MIB = 1024 * 1024
PART = ".part-simulated"
"""A half-written file is called as other drivers call it; one form is enough here."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """Raises Invalid where the datacenter has no such datastore."""
    path, name = parse_uri(uri, "datastore")
    with datacenter(path).transaction() as db:
        row = db.execute("SELECT shared, disk_format FROM datastores WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise Invalid(f"There is no datastore {name!r} in {path}.")
    shared, disk_format = row
    overlay = disk_format == "qcow2"
    clone = "overlay" if overlay else "copy"
    return DatastoreCapabilities(bool(shared), disk_format, clone, overlay, movable=not shared)


class SimulatedDatastore:
    """Files of one datastore, seen from one host; a local datastore has other files on every host.

    Images of a local one are kept as files of no host too, from which a host gets its copy when it needs one.
    """

    def __init__(self, uri: str, host: HostRef, access: Access) -> None:
        self._path, self._name = parse_uri(uri, "datastore")
        self._host = parse_uri(host.uri, "host")[1]
        self._timeout_s = access.call_timeout_s
        self.capabilities = datastore_capabilities(uri)
        self._key = (self._name, "" if self.capabilities.shared else self._host)

    def _call(self, name: str, subject: str = "") -> AbstractContextManager[Call]:
        return datacenter(self._path).call(self._host, f"datastore.{name}", subject, self._timeout_s)

    def path(self, file: str) -> str:
        return f"{ROOT}/{self._name}/{_plain(file)}"

    def read_use(self) -> StorageUse:
        with self._call("read_use") as call:
            capacity_mib = self._capacity_mib(call)
            return StorageUse(capacity_mib, max(0, capacity_mib - self._used(call) // MIB))

    def read_files(self) -> Mapping[str, int]:
        with self._call("read_files") as call:
            return dict(
                call.execute(
                    "SELECT name, size FROM files WHERE datastore = ? AND host = ?"
                    " AND (name GLOB 'vm-*' OR name GLOB 'volume-*' OR name GLOB 'image-*') ORDER BY name",
                    self._key,
                )
            )

    def ensure_writable(self) -> bool:
        with self._call("ensure_writable") as call:
            self._check_space(call, 0)
            return True

    def ensure_image(
        self, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        _plain(image.file)
        with self._call("ensure_image", image.file) as call:
            if self._has(call, image.file):
                return False
            try:
                stat = source.stat()
                checksum = _sha256(source, stat.st_mtime_ns, stat.st_size) if image.sha256 else ""
            except OSError as error:
                raise Invalid(f"{source} cannot be read: {error.strerror}.") from error
            if checksum != image.sha256:
                raise Invalid(f"{source}: its sha256 is {checksum}, expected {image.sha256}.")
            self._check_space(call, stat.st_size)
            self._put(call, image.file + PART, stat.st_size // 2)
            call.fail_if("halfway")
            if progress:
                with call.outside():
                    progress(stat.st_size // 2, stat.st_size)
                    progress(stat.st_size, stat.st_size)
                if self._has(call, image.file):  # another thread was faster
                    return False
            self._drop(call, image.file + PART)
            self._put(
                call,
                image.file,
                stat.st_size,
                virtual_mib=image.virtual_size_mib,
                checksum=bytes.fromhex(image.sha256),
            )
            self._keep(call, image.file)
            return True

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool:
        _plain(image.file), _plain(source.file)
        if source.snapshot_id and not self.capabilities.snapshots:
            raise Unsupported(f"{source.file} is a raw disk, which holds no snapshots.")
        with self._call("ensure_image_from", image.file) as call:
            if self._has(call, image.file):
                return False
            if source.whole:
                self._bring(call, source.file)
            self._check_unused(call, source)
            content = self._content(call, source)
            # What an overlay shows is in two files: how much of it there is, nobody knows here.
            size = self._size(call, source.file)
            self._check_space(call, size)
            if call.has_fault("halfway"):
                self._put(call, image.file + PART, size // 2)
            call.fail_if("halfway")
            self._drop(call, image.file + PART)
            checksum = hashlib.sha256(f"{size} {content}".encode()).digest()
            if source.whole:
                checksum = self._checksum(call, source.file)
            self._put(call, image.file, size, virtual_mib=image.virtual_size_mib, checksum=checksum)
            self._write(call, image.file, content)
            self._keep(call, image.file)
            return True

    def read_image(self, image: ImageSpec) -> ImageSeen:
        _plain(image.file)
        with self._call("read_image", image.file) as call:
            size = self._size(call, image.file)
            return ImageSeen(size, self._checksum(call, image.file).hex())

    def ensure_disk(self, disk: DiskSpec) -> bool:
        _plain(disk.file)
        if disk.image and disk.size_mib < disk.image.virtual_size_mib:
            raise Invalid(
                f"A disk of {disk.size_mib} MiB cannot hold image {disk.image.file} of"
                f" {disk.image.virtual_size_mib} MiB."
            )
        overlay = self.capabilities.clone == "overlay"
        with self._call("ensure_disk", disk.file) as call:
            if self._has(call, disk.file):
                return False
            if disk.image and not self._has(call, disk.image.file):
                self._bring(call, disk.image.file)
            if disk.image and not self._has(call, disk.image.file):
                raise call.failure(
                    f"Could not open '{self.path(disk.image.file)}': No such file or directory"
                )
            size = OVERLAY_BYTES if overlay else disk.size_mib * MIB
            self._check_space(call, size)
            if call.has_fault("halfway"):
                self._put(call, disk.file + PART, size // 2)
            call.fail_if("halfway")
            backing = disk.image.file if overlay and disk.image else ""
            self._drop(call, disk.file + PART)
            self._put(call, disk.file, size, virtual_mib=disk.size_mib, backing=backing)
            if disk.image:
                as_it_is = FileSource(disk.image.file, disk.image.format, disk.image.virtual_size_mib)
                self._write(call, disk.file, self._content(call, as_it_is))
            return True

    def ensure_disk_from(self, disk: DiskSpec, source: HostRef) -> bool:
        _plain(disk.file)
        if not self.capabilities.movable:
            raise Unsupported(f"{disk.file} is in a datastore whose disks are not copied from host to host.")
        peer = parse_uri(source.uri, "host")[1]
        with self._call("ensure_disk_from", disk.file) as call:
            if self._has(call, disk.file):
                return False
            if disk.image:
                self._bring(call, disk.image.file)
            if call.has_fault("halfway"):
                self._put(call, disk.file + PART, 1)
            call.fail_if("halfway")
            if not self._copy(call, disk.file, peer, self._host):
                raise call.failure(f"{peer}: {self.path(disk.file)}: No such file or directory")
            call.execute(
                "INSERT INTO disk_content SELECT datastore, ?, file, content FROM disk_content"
                " WHERE datastore = ? AND host = ? AND file = ?",
                (self._host, self._name, peer, disk.file),
            )
            return True

    def ensure_seed(self, file: str, content: bytes) -> bool:
        _plain(file)
        checksum = hashlib.sha256(content).digest()
        with self._call("ensure_seed", file) as call:
            row = call.one(
                "SELECT checksum FROM files WHERE datastore = ? AND host = ? AND name = ?", (*self._key, file)
            )
            if row and row[0] == checksum:
                return False
            self._check_space(call, len(content))
            if call.has_fault("halfway"):
                self._put(call, file + PART, len(content) // 2)
            call.fail_if("halfway")
            self._drop(call, file + PART)
            self._put(call, file, len(content), checksum=checksum)
            routers.keep(call, *self._key, file, content)
            return True

    def ensure_removed(self, files: Sequence[str]) -> bool:
        for file in files:
            _plain(file)
        with self._call("ensure_removed", " ".join(files)) as call:
            removed = False
            for index, file in enumerate(files):
                if index == 1:
                    call.fail_if("halfway")
                removed |= self._drop(call, file) | self._drop_parts(call, file)
                if self.capabilities.movable and file.startswith("image-"):
                    kept = "DELETE FROM files WHERE datastore = ? AND host = '' AND name = ?"
                    removed |= call.execute(kept, (self._name, file)).rowcount > 0
            return removed

    def ensure_renamed(self, file: str, to: str, *, writable: bool) -> bool:
        _plain(file), _plain(to)
        with self._call("ensure_renamed", f"{file} {to}") as call:
            there, done = self._has(call, file), self._has(call, to)
            if there and done:
                raise call.failure(f"{to} is there too")
            if not there and not done:
                raise call.failure(f"chmod: cannot access '{to}': No such file or directory")
            if done:
                return False
            where = (*self._key, file)
            call.execute(
                "UPDATE files SET name = ? WHERE datastore = ? AND host = ? AND name = ?", (to, *where)
            )
            call.execute(
                "UPDATE disk_content SET file = ? WHERE datastore = ? AND host = ? AND file = ?", (to, *where)
            )
            return True

    def check_disk(self, file: str) -> list[str]:
        path = self.path(file)
        with self._call("check_disk", file) as call:
            if not self._has(call, file):
                return ["there is no such file"]
            damage = self._damage(call, file)
            if self.capabilities.disk_format != "qcow2":
                return []
            running = call.execute("SELECT spec FROM domains WHERE state IN ('running', 'paused')")
            if any(path in json.loads(spec)["files"] for (spec,) in running):
                raise Busy(f"{self._host}: checking {path}: a guest has it open.")
            return [damage] if damage else []

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        _plain(source.file)
        copy = f"{source.file}.part-export"
        with self._call("bring_disk", source.file) as call:
            self._check_unused(call, source)
            content = f"{self._size(call, source.file)} {self._content(call, source)}".encode()
            self._drop(call, copy)
            self._check_space(call, len(content))
            self._put(call, copy, len(content))
            call.fail_if("halfway")
            try:
                with call.outside(), written(to) as write:
                    write(content)
                    if progress:
                        progress(len(content), len(content))
            finally:
                self._drop(call, copy)
        return hashlib.sha256(content).hexdigest()

    def read_sha256(self, file: str) -> str:
        """Of an image that a driver stored, its own; else of what is there instead of bytes."""
        _plain(file)
        with self._call("read_sha256", file) as call:
            sql = "SELECT size, checksum FROM files WHERE datastore = ? AND host = ? AND name = ?"
            row = call.one(sql, (*self._key, file))
            if row is None:
                raise call.failure(f"{self.path(file)}: No such file or directory")
            damage = self._damage(call, file)
        if row[1] and not damage:
            return bytes(row[1]).hex()
        return hashlib.sha256(f"{row[0]} {damage}".encode()).hexdigest()

    def _damage(self, call: Call, file: str) -> str:
        sql = "SELECT problem FROM damage WHERE datastore = ? AND host = ? AND file = ?"
        row = call.one(sql, (*self._key, file))
        return str(row[0]) if row else ""

    def _has(self, call: Call, file: str) -> bool:
        return bool(
            call.one("SELECT 1 FROM files WHERE datastore = ? AND host = ? AND name = ?", (*self._key, file))
        )

    def _put(
        self,
        call: Call,
        file: str,
        size: int,
        *,
        virtual_mib: int = 0,
        backing: str = "",
        checksum: bytes | None = None,
    ) -> None:
        call.execute(
            "INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size,"
            " virtual_mib = excluded.virtual_mib, backing = excluded.backing, checksum = excluded.checksum",
            (*self._key, file, size, virtual_mib, backing, checksum),
        )

    def _copy(self, call: Call, file: str, source: str, target: str) -> bool:
        """A local datastore's file from one host to another, if it is there; empty: the control machine."""
        there = call.one(
            "SELECT size FROM files WHERE datastore = ? AND host = ? AND name = ?", (self._name, source, file)
        )
        if there is None:
            return False
        if target:
            self._check_space(call, there[0])
        call.execute(
            "INSERT OR IGNORE INTO files SELECT datastore, ?, name, size, virtual_mib, backing, checksum"
            " FROM files WHERE datastore = ? AND host = ? AND name = ?",
            (target, self._name, source, file),
        )
        return True

    def _bring(self, call: Call, file: str) -> None:
        if self.capabilities.movable and not self._has(call, file):
            self._copy(call, file, "", self._host)

    def _keep(self, call: Call, file: str) -> None:
        if self.capabilities.movable:
            self._copy(call, file, self._host, "")

    def _check_unused(self, call: Call, source: FileSource) -> None:
        """Raise Busy where a guest may write to what is to be read."""
        sql = (
            "SELECT name FROM domains WHERE state IN ('running', 'paused') AND instr(spec, ?)"
            " AND (? OR host = ?)"
        )
        values = (self.path(source.file), self.capabilities.shared, self._host)
        if not source.snapshot_id and (row := call.one(sql, values)):
            raise Busy(f'{self._host}: Failed to get shared "write" lock: {row[0]} uses {source.file}.')

    def _size(self, call: Call, file: str) -> int:
        row = call.one(
            "SELECT size FROM files WHERE datastore = ? AND host = ? AND name = ?", (*self._key, file)
        )
        if row is None:
            raise call.failure(f"Could not open '{self.path(file)}': No such file or directory")
        return int(row[0])

    def _checksum(self, call: Call, file: str) -> bytes:
        row = call.one(
            "SELECT checksum FROM files WHERE datastore = ? AND host = ? AND name = ?", (*self._key, file)
        )
        return row[0] or b""

    def _content(self, call: Call, source: FileSource) -> str:
        """What a guest wrote last on a disk, or on the one that an image was made of."""
        where = (*self._key, source.file)
        if not source.snapshot_id:
            sql = "SELECT content FROM disk_content WHERE datastore = ? AND host = ? AND file = ?"
            row = call.one(sql, where)
            return str(row[0]) if row else ""
        sql = "SELECT disk FROM snapshots WHERE datastore = ? AND host = ? AND file = ? AND id = ?"
        row = call.one(sql, (*where, source.snapshot_id))
        if row is None:
            raise call.failure(f"Failed to load snapshot: Can't find snapshot {source.snapshot_id}")
        return str(row[0])

    def _write(self, call: Call, file: str, content: str) -> None:
        if content:
            call.execute("REPLACE INTO disk_content VALUES (?, ?, ?, ?)", (*self._key, file, content))

    def _drop(self, call: Call, file: str) -> bool:
        """On Linux a file that a running domain has open can be removed: nobody is asked."""
        where = (*self._key, file)
        sql = "DELETE FROM files WHERE datastore = ? AND host = ? AND name = ?"
        return call.execute(sql, where).rowcount > 0

    def _drop_parts(self, call: Call, file: str) -> bool:
        # All names that begin with `<file>.part-`, by a range ("." follows "-") that the primary key serves.
        where = (*self._key, f"{file}.part-", f"{file}.part.")
        sql = "DELETE FROM files WHERE datastore = ? AND host = ? AND name >= ? AND name < ?"
        return call.execute(sql, where).rowcount > 0

    def _capacity_mib(self, call: Call) -> int:
        row = call.one("SELECT capacity_mib FROM datastores WHERE name = ?", (self._name,))
        return int(row[0])

    def _used(self, call: Call) -> int:
        row = call.one("SELECT bytes FROM file_use WHERE datastore = ? AND host = ?", self._key)
        return int(row[0]) if row else 0

    def _check_space(self, call: Call, more: int) -> None:
        capacity_mib, writable, used = call.one(
            "SELECT capacity_mib, writable, (SELECT bytes FROM file_use WHERE datastore = ? AND host = ?)"
            " FROM datastores WHERE name = ?",
            (*self._key, self._name),
        )
        if not writable:
            raise call.failure(f"{ROOT}/{self._name}: Read-only file system")
        if (used or 0) + more > capacity_mib * MIB:
            raise call.failure(f"{ROOT}/{self._name}: No space left on device")


def _plain(file: str) -> str:
    if not _PLAIN.fullmatch(file):
        raise Invalid(f"{file!r} is not a plain file name.")
    return file


@lru_cache(maxsize=64)
def _sha256(source: Path, mtime_ns: int, size: int) -> str:
    """Cached: a scale test uploads one image to a thousand datastores."""
    with source.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def datastore(uri: str, host: HostRef, access: Access) -> SimulatedDatastore:
    """The driver of `simulated:///path/dc.db?datastore=NAME`."""
    return SimulatedDatastore(uri, host, access)
