"""A tenant's welcome sheet as files on the control machine. Without Prefect: a command writes it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reports import welcome
from vdc.errors import Invalid


def check_sheets(directory: str) -> None:
    """Raises Invalid where no sheet can be written there; no directory: none is wanted."""
    place = Path(directory)
    while directory and not place.exists():
        place = place.parent
    if directory and not place.is_dir():
        raise Invalid(f"The welcome sheet cannot be written to {directory}: {place} is no directory.")


def write_sheets(facts: dict[str, Any], directory: str) -> list[str]:
    """`TENANT.html` and `TENANT.txt`, of what there is now; returns their paths. Raises Invalid."""
    tenant, place = facts["tenant"], Path(directory)
    sheets = {f"{tenant}.html": welcome.page(facts), f"{tenant}.txt": welcome.text(facts)}
    try:
        place.mkdir(parents=True, exist_ok=True)
        for name, content in sheets.items():
            (place / name).write_text(content)
    except OSError as error:
        raise Invalid(
            f"The welcome sheet cannot be written: {error}. Ask for it by `vdc tenant welcome`."
        ) from error
    return [str(place / name) for name in sheets]
