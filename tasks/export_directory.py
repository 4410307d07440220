"""Where a tenant's data is exported to."""

from __future__ import annotations

import json
from pathlib import Path

from vdc.errors import Invalid

MANIFEST = "offboarding.json"


def check_directory(directory: Path, tenant: str) -> None:
    """Raise Invalid where an export would be mixed with something else."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise Invalid(f"{directory} is no directory: the tenant's data is exported into one.")
    there = {file.name for file in directory.iterdir()}
    try:
        mine = json.loads((directory / MANIFEST).read_text()).get("tenant") == tenant
    except (OSError, ValueError):
        mine = False
    if there and not mine:
        raise Invalid(
            f"{directory} is not empty, and no earlier export of tenant {tenant}: give another one."
        )
