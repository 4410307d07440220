"""Guest images: `tiny`, a machine of 96 MiB that boots in seconds and says who it is, and `router`.

docs/guest.md and docs/routers.md tell what is in them. Built from Debian packages into
$XDG_CACHE_HOME/vdc/guests, once for each recipe: the scripts, this code, and the versions of the packages.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deployments.guests import disk, initramfs, packages
from deployments.guests import kernel as kernels
from deployments.guests.recipes import HERE, RECIPES, Recipe
from deployments.programs import require_programs, run
from vdc.errors import DriverFailure, Invalid, Refused

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


def ensure_image(name: str = "tiny", kernel: str = "debian", log: Callable[[str], None] = _to_stderr) -> Path:
    """Path of the qcow2 image, built if this recipe was not built before (10 to 20 s).

    `kernel` is `debian` (the cloud kernel as it is) or `tiny` (built from Debian's source: 7 to 15
    minutes once, then faster and smaller guests). Raises Refused naming missing packages, DriverFailure if a
    step fails. Another process that builds the same is waited for.
    """
    recipe = RECIPES[name]
    if kernel not in recipe.kernels:
        raise Invalid(f"A kernel of {name} is one of {', '.join(recipe.kernels)}, not {kernel!r}.")
    require_programs(PROGRAMS, "Building the guest image")
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    fetched = packages.candidates(*recipe.fetched) if recipe.fetched else {}
    image = cache / f"{name}-{kernel}-{_key(recipe, kernel, fetched)}.qcow2"
    if image.exists():
        return image
    with (
        _locked(cache / f".lock-{name}-{kernel}"),
        tempfile.TemporaryDirectory(prefix=".build-", dir=cache) as made,
    ):
        if image.exists():
            return image
        scratch = Path(made)
        provided = kernels.provide(kernel, initramfs.modules_of(recipe), scratch, cache, log)
        if fetched:
            packages.unpack(fetched, scratch, scratch / "fetched", log)
        log("guest image: root file system")
        initramfs.build(recipe, provided, scratch / "fetched", scratch, scratch / "initrd")
        log("guest image: disk")
        disk.build(provided, scratch / "initrd", scratch, scratch / "image.qcow2")
        (scratch / "image.qcow2").replace(image)
        log(f"guest image: {image}")
    return image


def _key(recipe: Recipe, kernel: str, fetched: Mapping[str, str]) -> str:
    """Hash of all that decides what the image holds."""
    digest = hashlib.sha256()
    for file in sorted([*HERE.glob("*.py"), *(HERE / script for script in recipe.scripts)]):
        digest.update(f"{file.relative_to(HERE)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    installed = _package_versions([*initramfs.PACKAGES, *recipe.installed, *disk.PACKAGES])
    unpacked = [f"{name}={version}" for name, version in fetched.items()]
    for line in (*installed, *unpacked, kernels.version(kernel)):
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
