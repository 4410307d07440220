"""A disk on its way to the control machine: a copy that needs no other file, made where the bytes are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from drivers.datastore import files
from drivers.ssh import Ssh
from drivers.whole_file import written
from vdc.errors import DriverFailure
from vdc.model import FileSource, ImageSeen, ImageSpec


class Makes(Protocol):
    """What is needed of a datastore."""

    def ensure_image_from(self, image: ImageSpec, source: FileSource) -> bool: ...

    def read_image(self, image: ImageSpec) -> ImageSeen: ...

    def ensure_removed(self, names: Sequence[str]) -> bool: ...

    def path(self, name: str) -> str: ...


def cat(store: Makes) -> Callable[[str], list[str]]:
    """How a file of a directory is printed."""
    return lambda file: ["cat", "--", store.path(file)]


def bring_disk(
    store: Makes,
    ssh: Ssh,
    read: Callable[[str], list[str]],
    source: FileSource,
    to: Path,
    progress: Callable[[int, int], None] | None,
    timeout_s: float,
) -> str:
    """`read` is the command line that prints a file; see `drivers.contract.Datastore.bring_disk`."""
    # By this name it goes with the disk, also where whoever makes it is killed.
    copy = ImageSpec("", f"{source.file}.part-export", "qcow2", source.size_mib)
    # One that is there already may be older than the disk.
    store.ensure_removed([copy.file])
    try:
        store.ensure_image_from(copy, source)
        seen = store.read_image(copy)
        what = f"bringing {source.file} to the control machine"
        with written(to) as write:
            got, done = hashlib.sha256(), 0

            def take(chunk: bytes) -> None:
                nonlocal done
                got.update(chunk)
                write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, seen.size_bytes)

            whole_s = timeout_s + source.size_mib / files.SLOWEST_COPY_MIB
            ssh.download(read(copy.file), take, timeout_s=whole_s, what=what)
            if got.hexdigest() != seen.sha256:
                raise DriverFailure(f"{ssh.name}: {what} failed: the bytes arrived damaged.", host=ssh.name)
        return seen.sha256
    finally:
        store.ensure_removed([copy.file])
