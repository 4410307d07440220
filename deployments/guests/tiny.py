"""The guest image `tiny`: a machine of 96 MiB that boots in seconds and says who it is.

docs/guest.md tells what is in it. Built from Debian packages into $XDG_CACHE_HOME/vdc/guests, once for each
recipe: the scripts, this code, and the versions of the packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from deployments.guests import disk, initramfs
from deployments.guests import kernel as kernels
from deployments.programs import require_programs, run
from vdc.errors import DriverFailure, Invalid, Refused

KERNELS = ("debian", "tiny")
PROGRAMS = {
    **disk.PROGRAMS,
    "apt-get": "apt",
    "cpio": "cpio",
    "dpkg-deb": "dpkg",
    "ldd": "libc-bin",
    "lz4": "lz4",
    "strip": "binutils",
}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "vdc" / "guests"


def ensure_tiny(kernel: str = "debian", log: Callable[[str], None] = _to_stderr) -> Path:
    """Path of the qcow2 image, built if this recipe was not built before (about 10 s).

    `kernel` is `debian` (the cloud kernel as it is) or `tiny` (built from Debian's source: 7 to 15
    minutes once, then faster and smaller guests). Raises Refused naming missing packages, DriverFailure if a
    step fails. Another process that builds the same is waited for.
    """
    if kernel not in KERNELS:
        raise Invalid(f"A kernel is one of {', '.join(KERNELS)}, not {kernel!r}.")
    require_programs(PROGRAMS, "Building the guest image")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    image = cache / f"tiny-{kernel}-{_recipe(kernel)}.qcow2"
    if image.exists():
        return image
    with (
        _locked(cache / f".lock-{kernel}"),
        tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as made,
    ):
        if image.exists():
            return image
        scratch = Path(made)
        provided = kernels.provide(kernel, scratch, cache, log)
        log("tiny image: root file system")
        initramfs.build(provided, scratch, scratch / "initrd")
        log("tiny image: disk")
        disk.build(provided, scratch / "initrd", scratch, scratch / "image.qcow2")
        (scratch / "image.qcow2").replace(image)
        log(f"tiny image: {image}")
    return image


def _recipe(kernel: str) -> str:
    """Hash of all that decides what the image holds."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    for file in sorted(
        [*here.glob("*.py"), *(path for path in initramfs.SCRIPTS.iterdir() if path.is_file())]
    ):
        digest.update(f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    for line in (*_package_versions([*initramfs.PACKAGES, *disk.PACKAGES]), kernels.version(kernel)):
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()[:12]


def _package_versions(names: Sequence[str]) -> list[str]:
    """`name=version` of installed packages, in alphabetical order. Raises Refused for one that is missing."""
    try:
        shown = run(["dpkg-query", "--show", "--showformat=${Package}=${Version}\\n", *names])
    except DriverFailure as error:
        raise Refused(f"Packages are missing. Type: apt-get install {' '.join(names)}") from error
    return sorted(shown.split())


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
