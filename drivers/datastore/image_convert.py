"""Bring an inspected image into the format that a datastore keeps, on the control machine."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from vdc.errors import DriverFailure, TimedOut

TIMEOUT_S = 3600.0
_CHUNK = 4 * 2**20


def convert(source: Path, source_format: str, target: Path, target_format: str) -> str:
    """Write `source` to `target` in another format and return the sha256 of what was written.

    `source_format` is what the inspection found: qemu-img must not guess it. Raises DriverFailure, TimedOut.
    """
    command = ["qemu-img", "convert", "-f", source_format, "-O", target_format, str(source), str(target)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"Converting {source} to {target_format} took longer than {TIMEOUT_S:g} s.") from error
    if done.returncode:
        raise DriverFailure(
            f"Converting {source} to {target_format} failed: {done.stderr.strip()}",
            command=" ".join(command),
            stderr=done.stderr,
        )
    with target.open("rb") as file:
        digest = hashlib.sha256()
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
