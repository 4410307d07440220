"""Files of the control machine that are whole, or are not there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vdc.errors import DriverFailure

PART = ".part"


@contextmanager
def written(to: Path) -> Iterator[Callable[[bytes], None]]:
    """`to` is what the body has written, once that has ended well; else it stays as it was.

    What a process that was killed has left has the name `<to>.part`; the next one writes over it. Raises
    DriverFailure where it cannot be written.
    """
    part = to.with_name(to.name + PART)

    def failure(error: OSError) -> DriverFailure:
        return DriverFailure(f"{to} cannot be written: {error.strerror}.", command=f"writing {to}")

    try:
        file = part.open("wb")
    except OSError as error:
        raise failure(error) from error

    def write(chunk: bytes) -> None:
        try:
            file.write(chunk)
        except OSError as error:
            raise failure(error) from error

    try:
        with file:
            yield write
            file.flush()
            os.fsync(file.fileno())
        part.replace(to)
    except OSError as error:
        raise failure(error) from error
    finally:
        part.unlink(missing_ok=True)
