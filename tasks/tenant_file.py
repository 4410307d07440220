"""A tenant's file on the control machine."""

from __future__ import annotations

from pathlib import Path

from vdc.errors import Invalid
from vdc.onboarding import TenantFile, parse

MAX_BYTES = 256 * 1024


def read_tenant_file(file: str) -> TenantFile:
    """Raises Invalid where the file cannot be read or is no tenant's."""
    return parse(read_text(file), file)


def read_text(file: str) -> str:
    """Raises Invalid where the file cannot be read, or is too large to be one that a person wrote."""
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise Invalid(f"{file} is larger than {MAX_BYTES // 1024} KiB.")
        return text.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} cannot be read: {error}.") from error
