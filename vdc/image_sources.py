"""What an image may be brought from: a file of the control machine, or a URL."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from vdc.errors import Invalid

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


def local_file(source: str) -> Path | None:
    """The file that `source` (a path, or `file:///path`) means; None for an http or https URL.

    Raises Invalid for any other URL, and for one with a password.
    """
    if "://" not in source:
        return Path(source)
    try:
        parts = urlsplit(source)
        credentials = parts.username or parts.password
    except ValueError as error:
        raise Invalid(f"{source} is no URL: {error}.") from error
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
            raise Invalid(f"{source} should name a file of this machine: file:///PATH.")
        return Path(unquote(parts.path))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Invalid(f"{source} cannot be fetched: give a file, or a URL of http, https or file.")
    if credentials:
        raise Invalid(
            f"The URL of {parts.hostname} holds a user or password, which would be kept with the operation: "
            "put them into ~/.netrc."
        )
    return None


def check_source(source: str, sha256: str) -> None:
    """Raises Invalid where `source` is none, or nothing proves what will come from it."""
    if sha256 and not _SHA256.fullmatch(sha256):
        raise Invalid(f"The checksum {sha256[:80]!r} is no SHA-256: give 64 hexadecimal digits.")
    if local_file(source) is None and urlsplit(source).scheme == "http" and not sha256:
        raise Invalid(
            f"{source} comes without TLS, so that anybody on the way could exchange the image: "
            "give the checksum that it must have (--sha256), or an https URL."
        )
