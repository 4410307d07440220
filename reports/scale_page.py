"""A scale test as a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reports.scale_test import Frames, words


def page(frames: Frames, about: Mapping[str, Any]) -> str:
    return (
        "<!doctype html><html><body>"
        + "".join(f"<p>{w}</p>" for w in words(frames, about))
        + "</body></html>"
    )
