"""A scale test in files: frames as Parquet, what they are about as JSON, a page for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports.scale_test import Frames, summary, words
from vdc.errors import Invalid, NotFound

FRAMES = ("phases", "rounds", "samples")


def write(frames: Frames, about: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Write all files. Returns the figures and where they are: `directory figures words`. Raises Invalid."""
    from reports.scale_page import page

    figures, said = summary(frames), words(frames, about)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name in FRAMES:
            getattr(frames, name).to_parquet(directory / f"{name}.parquet", index=False)
        figures.to_parquet(directory / "summary.parquet", index=False)
        (directory / "about.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")
        (directory / "report.html").write_text(page(frames, about))
    except OSError as error:
        raise Invalid(f"The report cannot be written to {directory}: {error}.") from error
    return {"directory": str(directory), "figures": figures.to_dict("records"), "words": said}


def read(directory: Path) -> tuple[Frames, dict[str, Any]]:
    """What was written there. Raises NotFound where that is no scale test, Invalid where it is damaged."""
    if not (directory / "about.json").is_file():
        raise NotFound(f"{directory} holds no scale test: there is no about.json in it.")
    try:
        about = json.loads((directory / "about.json").read_text())
        if not {"name", "request", "shape", "hosts"} <= set(about):
            raise ValueError("about.json lacks what a scale test writes")
        return Frames(*(pd.read_parquet(directory / f"{name}.parquet") for name in FRAMES)), about
    except (OSError, ValueError) as error:
        raise Invalid(f"The scale test in {directory} cannot be read: {error}.") from error
