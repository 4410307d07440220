"""What datastores in a directory share. All work is done on the host, one SSH command per act.

Every file comes into being under a temporary name (`<name>.part-<random>`) and is renamed when it is
whole. The scripts are fixed text; what varies reaches them as positional parameters. `$1` is always the
directory.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from drivers.ssh import Ssh
from vdc.errors import Busy, DriverFailure, Invalid, Unsupported
from vdc.model import DiskSpec, FileSource, ImageSeen, ImageSpec, StorageUse

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
MIB = 2**20

SLOWEST_COPY_MIB = 20
"""MiB a second below which a copy is given up."""

_ENTER = 'set -eu; cd -- "$1"; '

# mv -n never overwrites: of two makers of one file the first wins, and a disk in use stays as it is.
# The trap runs `rm` only where there is something to remove: on a busy host every process counts.
PUBLISH = """
trap 'if [ -e "$3" ]; then rm -f -- "$3"; fi' EXIT
publish() {
  mv -n -- "$3" "$2"
  if [ -e "$3" ]; then echo found; else echo made; fi
}
"""

_USE = _ENTER + "df -B1 --output=size,avail . | tail -n 1"

_LIST = (
    _ENTER
    + r"find . -maxdepth 1 -type f \( -name 'vm-*' -o -name 'volume-*' -o -name 'image-*' \)"
    + r" -printf '%s %f\n'"
)

_PROBE = (
    _ENTER
    + """
probe=".vdc-probe-$2"
trap 'rm -f -- "$probe"' EXIT
printf %s "$2" > "$probe"
[ "$(cat -- "$probe")" = "$2" ] || { echo "the probe file read back differently" >&2; exit 1; }
"""
)

_WRITE = (
    _ENTER
    + PUBLISH
    + """
umask 077
cat > "$3"
if [ -e "$2" ] && cmp -s -- "$3" "$2"; then echo found; else mv -f -- "$3" "$2"; echo made; fi
"""
)

RECEIVE = (
    PUBLISH
    + """
cat > "$3"
sum=$(sha256sum < "$3")
[ "${sum%% *}" = "$4" ] || { echo "the bytes arrived damaged: sha256 ${sum%% *}, expected $4" >&2; exit 1; }
chmod 444 -- "$3"
publish "$@"
"""
)

# The image is read by many and written by nobody. One that is converted has no backing file: none is named.
_CONVERT = """
if [ -e "$2" ]; then echo found; exit 0; fi
umask 022
if [ "$8" = whole ]; then
  cp --reflink=auto --sparse=always -- "$4" "$3"
elif [ -n "$6" ]; then
  qemu-img convert -q -U -l "snapshot.name=$6" -f "$5" -O "$7" -- "$4" "$3"
else
  qemu-img convert -q -f "$5" -O "$7" -- "$4" "$3"
fi
chmod 444 -- "$3"
publish "$@"
"""

_CHECKSUM = _ENTER + 'stat -c %s -- "$2"; sha256sum < "$2"'

_EXISTS = _ENTER + 'if [ -e "$2" ]; then echo found; else echo missing; fi'

_REMOVE = (
    _ENTER
    + """
shift
for name; do set -- "$@" "$name".part-*; done
rm -fv -- "$@"
"""
)


# In one file system a rename is one act: there is the one name or the other.
_RENAME = (
    _ENTER
    + """
answer=found
if [ -e "$2" ]; then
  if [ -e "$3" ]; then echo "$3 is there too" >&2; exit 1; fi
  mv -n -- "$2" "$3"
  answer=made
fi
chmod "$4" -- "$3"
echo "$answer"
"""
)

_SHA256 = _ENTER + 'sha256sum < "$2"'

MISSING = "there is no such file"
WHOLE_FILE_TIMEOUT_S = 900.0
"""For an act that reads a whole image or disk."""


def directory_of(uri: str) -> str:
    """The directory in a datastore's URI, such as `qcow2:///srv/vdc`. Raises Invalid."""
    parts = urlsplit(uri)
    path = unquote(parts.path)
    if parts.netloc or not path.startswith("/") or ".." in path.split("/") or path.rstrip("/") == "":
        raise Invalid(f"Datastore URI {uri!r} should name an absolute directory: {parts.scheme}:///srv/vdc.")
    return path.rstrip("/")


def is_shared(uri: str) -> bool:
    """Whether all hosts see the same files; `?shared=no`: each has its own. Raises Invalid."""
    query = urlsplit(uri).query
    if query not in ("", "shared=yes", "shared=no"):
        raise Invalid(f"Datastore URI {uri!r}: only ?shared=yes or ?shared=no may follow the directory.")
    return query != "shared=no"


def plain(file: str) -> str:
    """`file`, if it is a plain file name. Raises Invalid."""
    if not _PLAIN.fullmatch(file):
        raise Invalid(f"{file!r} is not a plain file name.")
    return file


def part_of(file: str) -> str:
    """A temporary name for `file`, found again by its beginning."""
    return f"{plain(file)}.part-{secrets.token_hex(6)}"


def script(
    ssh: Ssh,
    text: str,
    directory: str,
    *args: str,
    what: str,
    stdin: bytes = b"",
    timeout_s: float | None = None,
) -> str:
    """Run a fixed script in `directory`; return what it printed. Raises what `Ssh.run` raises."""
    argv = ["sh", "-c", text, "sh", directory, *args]
    return ssh.run(argv, stdin=stdin, timeout_s=timeout_s, what=what).decode(errors="surrogateescape")


def read_use(ssh: Ssh, directory: str) -> StorageUse:
    size, free = script(ssh, _USE, directory, what=f"reading the size of {directory}").split()
    return StorageUse(capacity_mib=int(size) // MIB, free_mib=int(free) // MIB)


def read_files(ssh: Ssh, directory: str) -> dict[str, int]:
    lines = script(ssh, _LIST, directory, what=f"listing {directory}").splitlines()
    pairs = (line.split(" ", 1) for line in lines)
    return {name: int(size) for size, name in pairs}


def ensure_writable(ssh: Ssh, directory: str) -> bool:
    script(ssh, _PROBE, directory, secrets.token_hex(8), what=f"writing a probe file to {directory}")
    return True


def ensure_written(ssh: Ssh, directory: str, file: str, content: bytes) -> bool:
    """Write a small file whole, readable by its owner only. False if it was there with the same content."""
    what = f"writing {file} to {directory}"
    answer = script(ssh, _WRITE, directory, plain(file), part_of(file), what=what, stdin=content)
    return made(ssh, what, answer)


def ensure_image(
    ssh: Ssh, directory: str, image: ImageSpec, source: Path, progress: Callable[[int, int], None] | None
) -> bool:
    """Upload `source` as `image.file`. Raises Invalid if it is not what was inspected."""
    what = f"storing {image.file} in {directory}"
    if exists(ssh, directory, image.file):
        return False
    sha256 = sha256_of(image, source)
    argv = ["sh", "-c", _ENTER + RECEIVE, "sh", directory, image.file, part_of(image.file), sha256]
    return made(ssh, what, ssh.upload(source, argv, progress=progress, what=what).decode())


def sha256_of(image: ImageSpec, source: Path) -> str:
    """Checksum of the local file. Raises Invalid if it is not the one that was inspected."""
    try:
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Invalid(f"{source} cannot be read: {error.strerror}.") from error
    if image.sha256 and image.sha256 != sha256:
        raise Invalid(
            f"{source} is not the file that was inspected: sha256 {sha256}, expected {image.sha256}."
        )
    return sha256


def ensure_image_from(
    ssh: Ssh, directory: str, image: ImageSpec, source: FileSource, *, call_timeout_s: float
) -> bool:
    """Make `image.file` of another file in the directory. Raises Busy where a guest writes to that."""
    what = f"making {image.file} of {source.file} in {directory}"
    try:
        answer = script(
            ssh,
            _ENTER + PUBLISH + _CONVERT,
            directory,
            plain(image.file),
            part_of(image.file),
            plain(source.file),
            source.format,
            source.snapshot_id,
            image.format,
            "whole" if source.whole and source.format == image.format else "",
            what=what,
            timeout_s=call_timeout_s + source.size_mib / SLOWEST_COPY_MIB,
        )
    except DriverFailure as error:
        if '"write" lock' in error.stderr:
            raise Busy(str(error)) from error
        raise
    return made(ssh, what, answer)


def read_image(ssh: Ssh, directory: str, image: ImageSpec, *, call_timeout_s: float) -> ImageSeen:
    answer = script(
        ssh,
        _CHECKSUM,
        directory,
        plain(image.file),
        what=f"reading {image.file} in {directory}",
        timeout_s=call_timeout_s + image.virtual_size_mib / SLOWEST_COPY_MIB,
    )
    size, sha256, _ = answer.split()
    return ImageSeen(int(size), sha256)


def check_size(disk: DiskSpec) -> None:
    """Raise Invalid if the disk would be smaller than its image."""
    if disk.image and disk.size_mib < disk.image.virtual_size_mib:
        raise Invalid(
            f"A disk of {disk.size_mib} MiB cannot hold image {disk.image.file} of "
            f"{disk.image.virtual_size_mib} MiB."
        )


def ensure_made(ssh: Ssh, text: str, directory: str, disk: DiskSpec, *args: str, timeout_s: float) -> bool:
    """Run a script that makes a disk: `$2` is the file, `$3` its part, `$4` the size in MiB, then `args`.

    It ends in `publish "$@"`. Raises Invalid if the disk would be smaller than its image.
    """
    check_size(disk)
    what = f"making disk {disk.file} in {directory}"
    answer = script(
        ssh,
        _ENTER + PUBLISH + text,
        directory,
        plain(disk.file),
        part_of(disk.file),
        str(disk.size_mib),
        *args,
        what=what,
        timeout_s=timeout_s,
    )
    return made(ssh, what, answer)


def not_movable(disk: DiskSpec) -> NoReturn:
    """Raise Unsupported: what the disk is made from is on one host, or the same on all of them."""
    raise Unsupported(f"{disk.file} is in a datastore whose disks are not copied from host to host.")


def ensure_removed(ssh: Ssh, directory: str, files: Sequence[str]) -> bool:
    names = [plain(file) for file in files]
    if not names:
        return False
    what = f"removing {', '.join(names[:5])}{' and more' if len(names) > 5 else ''} from {directory}"
    return bool(script(ssh, _REMOVE, directory, *names, what=what))


def ensure_renamed(ssh: Ssh, directory: str, file: str, to: str, *, writable: bool) -> bool:
    what = f"renaming {file} to {to} in {directory}"
    mode = "600" if writable else "444"
    return made(ssh, what, script(ssh, _RENAME, directory, plain(file), plain(to), mode, what=what))


def exists(ssh: Ssh, directory: str, file: str) -> bool:
    what = f"looking for {file} in {directory}"
    return script(ssh, _EXISTS, directory, plain(file), what=what).strip() == "found"


def read_sha256(ssh: Ssh, directory: str, file: str) -> str:
    what = f"reading all of {file} in {directory}"
    answer = script(ssh, _SHA256, directory, plain(file), what=what, timeout_s=WHOLE_FILE_TIMEOUT_S)
    return answer.split()[0]


def made(ssh: Ssh, what: str, answer: str) -> bool:
    """What a script that ends in `publish` has answered: whether it was this call that made the file."""
    word = answer.strip()
    if word not in ("made", "found"):
        raise DriverFailure(
            f"{ssh.name}: {what}: unexpected answer {word[:200]!r}.", host=ssh.name, command=what
        )
    return word == "made"
