"""Disks on the host's own disk: `local:///srv/vdc/local?images=/var/lib/vdc/images`.

Images are kept on the control machine, in the directory that `images` names. A host gets a copy by SSH when
the first machine on it needs one, once however many ask at the same time; disks are qcow2 overlays on it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

from drivers import ssh as ssh_module
from drivers.contract import Access, DatastoreCapabilities
from drivers.datastore import files
from drivers.datastore.qcow2 import Qcow2Datastore
from drivers.ssh import Ssh
from vdc.errors import Busy, DriverFailure, Invalid
from vdc.model import DiskSpec, FileSource, HostRef, ImageSeen, ImageSpec, StorageUse

log = logging.getLogger(__name__)

WAIT_S = 30
"""How long one command waits on the host for a copy that somebody else makes; then it asks again."""
_CHUNK = 4 * 2**20

# The directory itself is the lock: nothing is left of it, and the kernel frees it when its holder dies.
_LOCK = 'set -eu; cd -- "$1"; exec 9< .; '

_AWAIT = (
    _LOCK
    + """
if [ -e "$2" ]; then echo found; exit 0; fi
flock -w "$3" 9 || { echo busy; exit 0; }
if [ -e "$2" ]; then echo found; else echo missing; fi
"""
)

# Whoever has the lock is the only one who writes this file: what an earlier copy left, cut short, goes.
_RECEIVE = (
    _LOCK
    + """
flock -n 9 || { echo busy; exit 0; }
if [ -e "$2" ]; then echo found; exit 0; fi
rm -f -- "$2".part-*
echo ready
"""
    + files.RECEIVE
)

# Of a machine that is off: what its guest has written, on top of an image that this host has too.
_FETCH = """
if [ -e "$2" ]; then echo found; exit 0; fi
umask 077
peer=$5 path=$6
there() { ssh -o BatchMode=yes -o ConnectTimeout=10 -- "$peer" "$1" < /dev/null; }
sum=$(there "sha256sum < $path")
there "cat -- $path" > "$3"
[ "$(sha256sum < "$3")" = "$sum" ] || { echo "$path arrived damaged from $peer" >&2; exit 1; }
publish "$@"
"""


class LocalDatastore:
    """One host's part: a directory of its own, and the images that it may have copies of."""

    def __init__(self, uri: str, ssh: Ssh, access: Access) -> None:
        self.capabilities = datastore_capabilities(uri)
        self._directory, self._images = _parse(uri)
        self._own = Qcow2Datastore(f"qcow2://{quote(self._directory)}?shared=no", ssh, access)
        self._ssh = ssh
        self._access = access

    def path(self, file: str) -> str:
        return self._own.path(file)

    def read_use(self) -> StorageUse:
        return self._own.read_use()

    def read_files(self) -> Mapping[str, int]:
        return self._own.read_files()

    def ensure_writable(self) -> bool:
        return self._own.ensure_writable()

    def ensure_image(
        self, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None = None
    ) -> bool:
        """Keep it on the control machine, and bring it to this host."""
        self._keep(image, source)
        return self._bring(image.file, progress)

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool:
        """Make it on this host, and keep it on the control machine too."""
        if source.whole:
            self._bring(source.file)
        made = self._own.ensure_image_from(image, source)
        self._fetch(image)
        return made

    def read_image(self, image: ImageSpec) -> ImageSeen:
        return self._own.read_image(image)

    def ensure_disk(self, disk: DiskSpec) -> bool:
        files.check_size(disk)
        files.plain(disk.file)
        if disk.image:
            self._bring(disk.image.file)
        return self._own.ensure_disk(disk)

    def ensure_disk_from(self, disk: DiskSpec, source: HostRef) -> bool:
        if disk.image:
            self._bring(disk.image.file)
        return files.ensure_made(
            self._ssh,
            _FETCH,
            self._directory,
            disk,
            ssh_module.peer_of(source),
            shlex.quote(self.path(disk.file)),
            timeout_s=self._access.call_timeout_s + disk.size_mib / files.SLOWEST_COPY_MIB,
        )

    def ensure_seed(self, file: str, content: bytes) -> bool:
        return self._own.ensure_seed(file, content)

    def ensure_removed(self, names: Sequence[str]) -> bool:
        removed = self._own.ensure_removed(names)
        for name in names:
            if name.startswith("image-"):
                removed |= self._drop(name)
        return removed

    def ensure_renamed(self, file: str, to: str, *, writable: bool) -> bool:
        return self._own.ensure_renamed(file, to, writable=writable)

    def check_disk(self, file: str) -> list[str]:
        return self._own.check_disk(file)

    def bring_disk(
        self, source: FileSource, to: Path, progress: Callable[[int, int], None] | None = None
    ) -> str:
        return self._own.bring_disk(source, to, progress)

    def read_sha256(self, file: str) -> str:
        return self._own.read_sha256(file)

    # -- between the control machine and this host ---------------------------------------------------------

    def _bring(self, file: str, progress: Callable[[int, int], None] | None = None) -> bool:
        """See to it that the host has a copy of the image; True where this call made it."""
        kept, what = self._images / files.plain(file), f"copying {file} to {self._directory}"
        size = kept.stat().st_size if kept.exists() else 0
        # As long as another's copy may take.
        deadline = time.monotonic() + self._access.call_timeout_s + size / ssh_module.SLOWEST_UPLOAD
        while True:
            wait_s = min(WAIT_S, self._access.call_timeout_s / 2)
            answer = self._run(_AWAIT, file, f"{wait_s:g}", what=f"looking for {file} in {self._directory}")
            if answer == "missing":
                answer = self._send(kept, file, progress, what)
            if answer == "busy":
                if time.monotonic() < deadline:
                    continue
                raise Busy(f"{self._ssh.name}: {what}: another copy to there has not ended yet.")
            return files.made(self._ssh, what, answer)

    def _send(self, kept: Path, file: str, progress: Callable[[int, int], None] | None, what: str) -> str:
        if not kept.exists():
            raise DriverFailure(
                f"{self._ssh.name}: {what} failed: {kept} is not there: No such file or directory.",
                host=self._ssh.name,
                command=what,
            )
        try:
            with kept.open("rb") as image:
                sha256 = hashlib.file_digest(image, "sha256").hexdigest()
            expected = _checksum_of(kept).read_text().strip()
        except OSError as error:
            raise self._trouble(f"reading {kept}", error) from error
        if sha256 != expected:
            raise DriverFailure(
                f"{kept} is damaged: its sha256 is {sha256}, when it was stored it was {expected}.",
                host=self._ssh.name,
                command=what,
            )
        argv = ["sh", "-c", _RECEIVE, "sh", self._directory, file, files.part_of(file), sha256]
        answer = self._ssh.upload(kept, argv, progress=progress, what=what, on_request=True).decode().strip()
        if answer == "made":
            log.info("Image %s was copied to host %s.", file, self._ssh.name)
        return answer

    def _keep(self, image: ImageSpec, source: Path) -> None:
        """Copy a local file into the directory of images. Raises Invalid if it is not what was inspected."""
        kept = self._images / files.plain(image.file)
        if kept.exists():
            return
        part = self._part(image.file)
        digest = hashlib.sha256()
        try:
            with source.open("rb") as given, part.open("xb") as copy:
                while chunk := given.read(_CHUNK):
                    digest.update(chunk)
                    copy.write(chunk)
                os.fsync(copy.fileno())
        except OSError as error:
            part.unlink(missing_ok=True)
            if error.filename == str(source):
                raise Invalid(f"{source} cannot be read: {error.strerror}.") from error
            raise self._trouble(f"writing {kept}", error) from error
        if image.sha256 and image.sha256 != digest.hexdigest():
            part.unlink()
            raise Invalid(
                f"{source} is not the file that was inspected: sha256 {digest.hexdigest()}, "
                f"expected {image.sha256}."
            )
        self._publish(part, kept, digest.hexdigest())

    def _fetch(self, image: ImageSpec) -> None:
        """Bring an image that was made on the host to the control machine."""
        kept = self._images / image.file
        if kept.exists():
            return
        sha256, part, what = self.read_sha256(image.file), self._part(image.file), f"fetching {image.file}"
        try:
            timeout_s = self._access.call_timeout_s + image.virtual_size_mib / files.SLOWEST_COPY_MIB
            with part.open("xb") as copy:
                digest = hashlib.sha256()

                def take(chunk: bytes) -> None:
                    digest.update(chunk)
                    copy.write(chunk)

                self._ssh.download(["cat", "--", self.path(image.file)], take, timeout_s=timeout_s, what=what)
                os.fsync(copy.fileno())
            if digest.hexdigest() != sha256:
                raise DriverFailure(
                    f"{self._ssh.name}: {what} failed: the bytes arrived damaged.", host=self._ssh.name
                )
            self._publish(part, kept, sha256)
        except OSError as error:
            raise self._trouble(f"writing {kept}", error) from error
        finally:
            part.unlink(missing_ok=True)

    def _part(self, file: str) -> Path:
        try:
            self._images.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise self._trouble(f"making {self._images}", error) from error
        return self._images / files.part_of(file)

    def _publish(self, part: Path, kept: Path, sha256: str) -> None:
        """Give it its name, unless another one was faster: theirs has the same bytes."""
        checksum = _checksum_of(part)
        try:
            checksum.write_text(f"{sha256}\n")
            # In one step: who was faster reads it already.
            checksum.replace(_checksum_of(kept))
            part.chmod(0o444)
            os.link(part, kept)
        except FileExistsError:
            pass
        except OSError as error:
            raise self._trouble(f"writing {kept}", error) from error
        finally:
            checksum.unlink(missing_ok=True)
            part.unlink(missing_ok=True)

    def _drop(self, name: str) -> bool:
        kept = self._images / name
        left = [kept, _checksum_of(kept), *self._images.glob(f"{name}.part-*")]
        there = [file for file in left if file.exists()]
        for file in there:
            file.unlink(missing_ok=True)
        return bool(there)

    def _run(self, text: str, *args: str, what: str) -> str:
        return files.script(self._ssh, text, self._directory, *args, what=what).strip()

    def _trouble(self, what: str, error: OSError) -> DriverFailure:
        """With the images on this machine."""
        return DriverFailure(
            f"{what} on the control machine failed: {error.strerror}.", host=self._ssh.name, command=what
        )


def _checksum_of(kept: Path) -> Path:
    """Beside an image: the sha256 of its bytes when it was stored."""
    return kept.with_name(f"{kept.name}.sha256")


def _parse(uri: str) -> tuple[str, Path]:
    """The directory on the host, and that of the images here. Raises Invalid."""
    parts = urlsplit(uri)
    asked = parse_qs(parts.query)
    images = Path(asked.get("images", [""])[-1])
    if set(asked) != {"images"} or not images.is_absolute():
        raise Invalid(
            f"Datastore URI {uri!r} should name where the control machine keeps its images: "
            "local:///srv/vdc/local?images=/var/lib/vdc/images."
        )
    return files.directory_of(uri), images


def datastore_capabilities(uri: str) -> DatastoreCapabilities:
    """What the datastore can do, no host asked. Raises Invalid for a malformed `uri`."""
    _parse(uri)
    return DatastoreCapabilities(
        shared=False, disk_format="qcow2", clone="overlay", snapshots=True, movable=True
    )


def datastore(uri: str, host: HostRef, access: Access) -> LocalDatastore:
    return LocalDatastore(uri, ssh_module.connection(host, access), access)
