"""Where a tenant's data is exported to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from drivers.whole_file import PART
from vdc.disk_export import Room
from vdc.errors import Invalid

MANIFEST = "offboarding.json"
DISK_FILES = "disk-files.json"
MIB = 2**20


def check_directory(directory: Path, tenant: str) -> None:
    """Raise Invalid where nothing can be written, or an export would be mixed with something else."""
    there = _nearest(directory)
    if not there.is_dir():
        raise Invalid(f"{there} is no directory: the tenant's data is exported into one.")
    if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        raise Invalid(f"{there} cannot be written to: give another directory, or run it as who may.")
    if there != directory:
        return
    names = {file.name for file in directory.iterdir()}
    try:
        mine = json.loads((directory / MANIFEST).read_text()).get("tenant") == tenant
    except FileNotFoundError:
        mine = names <= {MANIFEST + PART}
    except (OSError, ValueError, AttributeError):
        mine = False
    if not mine:
        raise Invalid(
            f"{directory} is not empty, and no earlier export of tenant {tenant}: give another one."
        )


def read_room(directory: Path) -> Room:
    """How much there is where `directory` is or is to be made, and what of disks is in it. Raises Invalid."""
    there = _nearest(directory)
    try:
        free_mib = shutil.disk_usage(there).free // MIB
        had = {row["file"]: directory / row["file"] for row in disk_files(directory)}
        had_mib = {name: file.stat().st_size // MIB for name, file in had.items() if file.exists()}
    except OSError as error:
        raise Invalid(f"{directory} cannot be looked at: {error.strerror}.") from error
    return Room(str(directory), free_mib, had_mib)


def disk_files(directory: Path) -> list[dict[str, Any]]:
    """The disks that were exported into it so far. Raises Invalid."""
    listing = directory / DISK_FILES
    try:
        return json.loads(listing.read_text()) if listing.exists() else []
    except (OSError, ValueError) as error:
        raise Invalid(f"The list of exported disks cannot be read: {listing}: {error}.") from error


def _nearest(directory: Path) -> Path:
    """It, or the nearest of its parents that is there. Raises Invalid."""
    try:
        return next(path for path in (directory, *directory.parents) if path.exists())
    except OSError as error:
        raise Invalid(f"{directory} cannot be looked at: {error.strerror}.") from error
