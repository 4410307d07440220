"""Getting at an image and looking at it, before anything of it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drivers.datastore.image_convert import convert
from drivers.datastore.image_inspect import ImageFacts, inspect
from drivers.download import download, shown
from tasks import progress
from tasks.environment import environment
from tasks.scratch import scratch
from vdc.errors import Invalid, Refused, Unready, VdcError
from vdc.image_sources import local_file
from vdc.requests import ImportImageRequest


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """A file that may be stored as it is. `facts` are those of the file that was given."""

    file: Path
    stored_sha256: str
    facts: ImageFacts

    @property
    def size_mib(self) -> int:
        return -(-self.file.stat().st_size // 2**20)


@contextmanager
def fetched(request: ImportImageRequest) -> Iterator[Path]:
    """The image as a file of this machine; one that was downloaded lives as long as the block.

    Raises Refused where it cannot be had: also where its server does not answer, as nothing was done yet.
    """
    if file := local_file(request.file):
        yield file
        return
    settings = environment().settings
    with scratch() as directory:
        target = directory / "download"
        try:
            download(
                request.file,
                target,
                max_mib=settings.download_max_mib,
                timeout_s=settings.download_timeout_s,
                standstill_s=settings.call_timeout_s,
                plain=bool(request.sha256),
                progress=lambda done, total: progress.report("downloading", done, total),
            )
        except Refused:
            raise
        except VdcError as error:
            raise Unready(f"{error} Nothing was stored; try again later.") from error
        yield target


def look_at_image(request: ImportImageRequest, file: Path) -> ImageFacts:
    """Raises Invalid where the file is no self-contained disk image or not the expected one."""
    try:
        return inspect(
            file,
            sha256=request.sha256,
            progress=lambda done, total: progress.report("checking", done, total),
        )
    except Invalid as error:
        # The user knows it by the name that he gave.
        raise Invalid(str(error).replace(str(file), shown(request.file))) from error


@contextmanager
def prepared(file: Path, facts: ImageFacts, disk_format: str) -> Iterator[PreparedImage]:
    """The image in the format that the datastore keeps; a converted copy lives as long as the block.

    An ISO image stays what it is: nobody writes to it.
    """
    if facts.iso or facts.format == disk_format:
        yield PreparedImage(file, facts.sha256, facts)
        return
    with scratch() as directory:
        target = directory / f"image.{disk_format}"
        yield PreparedImage(target, convert(file, facts.format, target, disk_format), facts)
