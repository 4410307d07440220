"""Disks as qcow2 overlays on a file server that no host mounts: `nfs://files.example/export/vdc`.

QEMU opens them by their nfs:// URL, and `qemu-img` makes them; all else a small program does on the host
(nfs_client.py). The server takes us for root (no_root_squash).

QEMU has no locks on such a file: what keeps two writers apart is our operations alone.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from drivers import ssh as ssh_module
from drivers.contract import Access, DatastoreCapabilities
from drivers.datastore import files, qcow2
from drivers.datastore.bringing import bring_disk
from drivers.ssh import Ssh
from vdc.errors import Invalid
from vdc.model import DiskSpec, FileSource, HostRef, ImageSeen, ImageSpec, StorageUse

_OURS = ("vm-", "volume-", "image-")
_DIRECTORY = re.compile(r"(/[A-Za-z0-9._-]+)+")


@cache
def _program() -> str:
    return Path(__file__).with_name("nfs_client.py").read_text()


class NfsDatastore:
    """One directory of a file server, worked on from one host."""

    def __init__(self, uri: str, ssh: Ssh, access: Access) -> None:
        self.capabilities = datastore_capabilities(uri)
        self._server, self._directory = _parse(uri)
        self._ssh = ssh
        self._access = access

    def path(self, file: str) -> str:
        """Its URL: how QEMU is told of it."""
        return f"nfs://{self._server}{self._directory}/{files.plain(file)}"

    def read_use(self) -> StorageUse:
        size, free = self._run("use", what=f"reading the size of {self._where}").split()
        return StorageUse(capacity_mib=int(size) // files.MIB, free_mib=int(free) // files.MIB)

    def read_files(self) -> Mapping[str, int]:
        told: dict[str, int] = json.loads(self._run("files", what=f"listing {self._where}"))
        return {name: size for name, size in told.items() if name.startswith(_OURS)}

    def ensure_writable(self) -> bool:
        token = secrets.token_hex(8)
        self._run("probe", f".vdc-probe-{token}", token, what=f"writing a probe file to {self._where}")
        return True

    def ensure_image(
        self, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        what = f"storing {image.file} in {self._where}"
        if self._run("exists", files.plain(image.file), what=what).strip() == "found":
            return False
        sha256 = files.sha256_of(image, source)
        argv = self._argv("receive", image.file, files.part_of(image.file), sha256)
        return files.made(
            self._ssh, what, self._ssh.upload(source, argv, progress=progress, what=what).decode()
        )

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool:
        part, given = files.part_of(image.file), self.path(source.file)
        what = f"making {image.file} of {source.file} in {self._where}"
        timeout_s = self._access.call_timeout_s + source.size_mib / files.SLOWEST_COPY_MIB
        if source.whole and source.format == image.format:
            answer = self._run("copy", image.file, part, source.file, what=what, timeout_s=timeout_s)
            return files.made(self._ssh, what, answer)
        of_snapshot = ["-U", "-l", f"snapshot.name={source.snapshot_id}"] if source.snapshot_id else []
        convert = ["qemu-img", "convert", "-q", *of_snapshot, "-f", source.format, "-O", image.format]
        return self._make(image.file, part, "444", [*convert, given, self.path(part)], what, timeout_s)

    def read_image(self, image: ImageSpec) -> ImageSeen:
        timeout_s = self._access.call_timeout_s + image.virtual_size_mib / files.SLOWEST_COPY_MIB
        what = f"reading {image.file} in {self._where}"
        size, sha256 = self._run("checksum", files.plain(image.file), what=what, timeout_s=timeout_s).split()
        return ImageSeen(int(size), sha256)

    def ensure_disk(self, disk: DiskSpec) -> bool:
        files.check_size(disk)
        part = files.part_of(disk.file)
        # By its whole URL: QEMU looks for a relative one below the overlay, as if that were a directory.
        image = ["-b", self.path(disk.image.file), "-F", disk.image.format] if disk.image else []
        create = ["qemu-img", "create", "-q", "-f", "qcow2", *image, self.path(part), f"{disk.size_mib}M"]
        what = f"making disk {disk.file} in {self._where}"
        return self._make(disk.file, part, "600", create, what, self._access.call_timeout_s)

    def ensure_disk_from(self, disk: DiskSpec, source: HostRef) -> bool:
        files.not_movable(disk)

    def ensure_seed(self, file: str, content: bytes) -> bool:
        what = f"writing {file} to {self._where}"
        answer = self._run("replace", files.plain(file), files.part_of(file), what=what, stdin=content)
        return files.made(self._ssh, what, answer)

    def ensure_removed(self, names: Sequence[str]) -> bool:
        plain = [files.plain(name) for name in names]
        if not plain:
            return False
        return bool(self._run("remove", *plain, what=f"removing {', '.join(plain[:5])}").strip())

    def ensure_renamed(self, file: str, to: str, *, writable: bool) -> bool:
        what = f"renaming {file} to {to} in {self._where}"
        mode = "600" if writable else "444"
        answer = self._run("rename", files.plain(file), files.plain(to), mode, what=what)
        return files.made(self._ssh, what, answer)

    def check_disk(self, file: str) -> list[str]:
        command = ["qemu-img", "check", "-f", "qcow2", self.path(file)]
        what, timeout_s = f"checking {file} in {self._where}", files.WHOLE_FILE_TIMEOUT_S
        return qcow2.findings(self._run("check", file, *command, what=what, timeout_s=timeout_s))

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        def read(file: str) -> list[str]:
            return self._argv("read", file)

        return bring_disk(self, self._ssh, read, source, to, progress, self._access.call_timeout_s)

    def read_sha256(self, file: str) -> str:
        what, timeout_s = f"reading all of {file} in {self._where}", files.WHOLE_FILE_TIMEOUT_S
        return self._run("checksum", files.plain(file), what=what, timeout_s=timeout_s).split()[1]

    @property
    def _where(self) -> str:
        return f"{self._server}:{self._directory}"

    def _make(self, file: str, part: str, mode: str, command: list[str], what: str, timeout_s: float) -> bool:
        answer = self._run("make", file, part, mode, *command, what=what, timeout_s=timeout_s)
        return files.made(self._ssh, what, answer)

    def _argv(self, verb: str, *args: str) -> list[str]:
        # -I -S: with nothing but its own library.
        return ["python3", "-I", "-S", "-c", _program(), verb, self._server, self._directory, *args]

    def _run(
        self, verb: str, *args: str, what: str, stdin: bytes = b"", timeout_s: float | None = None
    ) -> str:
        told = self._ssh.run(self._argv(verb, *args), stdin=stdin, timeout_s=timeout_s, what=what)
        return told.decode(errors="surrogateescape")


def _parse(uri: str) -> tuple[str, str]:
    """The server, and the directory there. Raises Invalid."""
    parts = urlsplit(uri)
    path = unquote(parts.path).rstrip("/")
    odd = parts.query or parts.username or ":" in parts.netloc or ".." in path.split("/")
    if odd or not parts.hostname or not _DIRECTORY.fullmatch(path):
        raise Invalid(
            f"Datastore URI {uri!r} should name a file server and a directory that it exports: "
            "nfs://files.example/export/vdc."
        )
    return parts.hostname, path


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """What the datastore can do, no host asked. Raises Invalid for a malformed `uri`."""
    _parse(uri)
    return DatastoreCapabilities(
        shared=True, disk_format="qcow2", clone="overlay", snapshots=True, locked=False
    )


def datastore(uri: str, host: HostRef, access: Access) -> NfsDatastore:
    return NfsDatastore(uri, ssh_module.connection(host, access), access)
