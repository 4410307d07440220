"""What a report for administrators is: sentences, tables and pictures, whatever it is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Section:
    """A table under a heading. `empty` is said where it has no row; `plot` draws it, where that helps."""

    key: str
    heading: str
    frame: pd.DataFrame
    empty: str
    note: str = ""
    plot: Callable[[Figure], object] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """`words` are what the figures say, most important first."""

    name: str
    title: str
    at: datetime
    words: list[str]
    sections: list[Section] = field(default_factory=list)

    def frames(self) -> dict[str, pd.DataFrame]:
        return {section.key: section.frame for section in self.sections}

    def data(self) -> dict[str, Any]:
        """As JSON: the frames as lists of rows."""
        tables = {key: rows(frame) for key, frame in self.frames().items()}
        return {"report": self.name, "at": self.at, "words": self.words} | tables


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The frame's rows; what is missing is None."""
    return [
        {str(key): None if _missing(value) else value for key, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]


def _missing(value: object) -> bool:
    return value is None or value is pd.NaT or (isinstance(value, float) and value != value)
