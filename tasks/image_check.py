"""Looking at an image file before anything of it is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from drivers.datastore.image_convert import convert
from drivers.datastore.image_inspect import ImageFacts, inspect
from tasks import progress
from tasks.environment import environment
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


def look_at_image(request: ImportImageRequest) -> ImageFacts:
    """Raises Invalid where the file is no self-contained disk image or not the expected one."""
    return inspect(
        Path(request.file),
        sha256=request.sha256,
        progress=lambda done, total: progress.report("checking", done, total),
    )


@contextmanager
def prepared(request: ImportImageRequest, facts: ImageFacts, disk_format: str) -> Iterator[PreparedImage]:
    """The image in the format that the datastore keeps; a converted copy lives as long as the block."""
    source = Path(request.file)
    if facts.format == disk_format:
        yield PreparedImage(source, facts.sha256, facts)
        return
    directory = environment().settings.home / "tmp"
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="import-", dir=directory) as scratch:
        target = Path(scratch) / f"image.{disk_format}"
        yield PreparedImage(target, convert(source, facts.format, target, disk_format), facts)
