"""Histories of machines in files, CSV or JSON lines, as event frames. Format: docs/billing.md.

A file is refused as a whole, with the rows that are wrong: half a history makes a wrong bill.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from reports.levels import UNTOLD
from reports.usage import EVENTS
from vdc.errors import Invalid
from vdc.event_kinds import BECOMES, ENDING, MAKING, TRAFFIC
from vdc.tariff import check_price, decimal_of

KINDS = (
    *BECOMES,
    "resized",
    "snapshot-taken",
    "snapshot-removed",
    "address-leased",
    "address-released",
    "owner-changed",
    *ENDING,
    TRAFFIC,
)
REQUIRED = ("at", "kind", "machine")
SIZES = ("vcpu", "memory_mib", "disk_mib", "snapshot_mib", "addresses", "bytes")
COLUMNS = (*REQUIRED, "id", "tenant", *SIZES, "image", "ec2_price")
TENANT = "default"
"""Whose a machine is of which that is never told."""
LARGEST = 10**15
NAMED = 5
"""How many wrong rows a refusal names."""

_OFFSET = re.compile(r"(?:Z|[+-]\d\d:?\d\d)$")
_WHOLE = re.compile(r"-?\d{1,18}")


Wrong = list[tuple[int, str]]
"""Line of the file, and what is wrong with it."""


def load_history(file: Path) -> pd.DataFrame:
    """The events in a file whose name ends in `.csv`, `.jsonl` or `.ndjson`, as an event frame.

    `tenant_id` is the tenant's name. Raises Invalid.
    """
    told = _read(file)
    unknown, missing = sorted(set(told) - set(COLUMNS)), [name for name in REQUIRED if name not in told]
    if unknown or missing:
        said = [
            f"{what} {', '.join(names)}"
            for what, names in (("unknown:", unknown), ("missing:", missing))
            if names
        ]
        raise Invalid(f"{file} is refused: columns {'; '.join(said)}. Known: {', '.join(COLUMNS)}.")
    told = (
        told.reindex(columns=list(COLUMNS)).astype("str").fillna("").apply(lambda column: column.str.strip())
    )
    told["id"] = told["id"].where(told["id"] != "", told["machine"])
    wrong: Wrong = []
    at = _instants(told, wrong)
    _say(wrong, told["machine"] == "", told["machine"], "it names no machine")
    _say(wrong, ~told["kind"].isin(KINDS), told["kind"], f"kind {{!r}} is none of {', '.join(KINDS)}")
    sizes = {name: _sizes(told[name], wrong) for name in SIZES}
    _check_traffic(told["kind"], sizes["bytes"], wrong)
    _check_prices(told["ec2_price"], wrong)
    if not wrong:
        _check_lives(told, at, sizes, wrong)
    if wrong:
        raise Invalid(f"{file} is refused: {_sentence(sorted(wrong))}")
    price = told["ec2_price"].mask(told["ec2_price"] == "").iloc[np.argsort(at, kind="stable")]
    price = price.groupby(told["id"]).ffill().fillna("").reindex(told.index)
    images = told["id"].isin(told["id"][told["kind"] == "stored"])
    nobody = ~told["id"].isin(told["id"][told["tenant"] != ""])
    made = pd.DataFrame(
        {
            "tenant_id": told["tenant"].mask(nobody, TENANT),
            "vm_id": told["id"],
            "machine": told["machine"],
            "kind": told["kind"],
            "at": at,
            "provider": np.where(images, "image", np.where(price != "", "ec2", "local")),
            "hourly_price": price,
            "image": told["image"],
        }
        | sizes
        | {"bytes": np.maximum(sizes["bytes"], 0)}
    )
    return made[list(EVENTS)].astype(EVENTS)


def _read(file: Path) -> pd.DataFrame:
    """All cells as text, by the line of the file that they stand in."""
    try:
        if file.suffix == ".csv":
            told = pd.read_csv(file, dtype=str, keep_default_na=False, skip_blank_lines=False)
            told.index += 2
            return told[(told != "").any(axis=1)]
        if file.suffix in (".jsonl", ".ndjson"):
            lines = file.read_text().splitlines()
            rows = {n: _object(file, n, line) for n, line in enumerate(lines, 1) if line.strip()}
            return pd.DataFrame.from_dict(rows, orient="index", dtype=str)
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"History {file} cannot be read: {error}.") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise Invalid(f"History {file} is not CSV with a row of headings: {error}.") from error
    raise Invalid(f"History {file} is refused: its name must end in .csv, .jsonl or .ndjson.")


def _object(file: Path, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line, parse_float=str, parse_int=str)
    except ValueError as error:
        raise Invalid(f"{file}, line {number}, is not JSON: {error}.") from error
    if not isinstance(row, dict):
        raise Invalid(f"{file}, line {number}, is refused: it must be an object.")
    return {str(key): "" if value is None else str(value) for key, value in row.items()}


def _instants(told: pd.DataFrame, wrong: Wrong) -> pd.Series:
    at = pd.to_datetime(told["at"], utc=True, format="ISO8601", errors="coerce")
    _say(
        wrong,
        at.isna(),
        told["at"],
        "at {!r} is no instant: give ISO 8601, such as 2026-10-15T08:00:00+02:00",
    )
    naive = at.notna() & ~told["at"].str.contains(_OFFSET)
    _say(wrong, naive, told["at"], "at {!r} has no offset from UTC: add it, such as +02:00 or Z")
    return at.astype("datetime64[us, UTC]")


def _sizes(told: pd.Series, wrong: Wrong) -> npt.NDArray[np.int64]:
    """Whole numbers; UNTOLD where nothing is said."""
    whole = told.str.fullmatch(_WHOLE) | (told == "")
    _say(wrong, ~whole, told, f"{told.name} {{!r}} is no whole number")
    values = told.where(whole & (told != ""), str(UNTOLD)).astype("int64")
    _say(wrong, whole & (told != "") & (values < 0), told, f"{told.name} {{}} is negative")
    _say(wrong, values > LARGEST, told, f"{told.name} {{}} is too large")
    return values.to_numpy()


def _check_traffic(kind: pd.Series, sent: npt.NDArray[np.int64], wrong: Wrong) -> None:
    _say(wrong, (kind == TRAFFIC) & (sent == UNTOLD), kind, "traffic without bytes")
    _say(wrong, (kind != TRAFFIC) & (sent != UNTOLD), kind, "bytes are of traffic, not of {!r}")


def _check_prices(told: pd.Series, wrong: Wrong) -> None:
    for text in told[told != ""].unique():
        try:
            check_price("ec2_price", decimal_of("ec2_price", text))
        except Invalid as error:
            _say(wrong, told == text, told, str(error).rstrip(".").replace("{", "{{").replace("}", "}}"))


def _check_lives(
    told: pd.DataFrame, at: pd.Series, sizes: Mapping[str, npt.NDArray[np.int64]], wrong: Wrong
) -> None:
    """Nothing ends before it begins; whoever runs has a size; and it is known from the first whose it is."""
    kind, by = told["kind"], told["id"]
    begun = at.where(kind.isin([*MAKING, "held"])).groupby(by).transform("min")
    ends = kind.isin(ENDING)
    _say(wrong, ends & (at < begun), told["machine"], "{} ends before it begins")
    _say(wrong, ends & begun.isna(), told["machine"], "{} ends and never begins")
    runs = kind.isin(["started", "resumed"])
    for name in ("vcpu", "memory_mib"):
        known = pd.Series(sizes[name] != UNTOLD, index=told.index).groupby(by).transform("any")
        _say(wrong, runs & ~known, told["machine"], f"{{}} runs, and its {name} is never told")
    tells = told["tenant"] != ""
    first = at.where(kind != TRAFFIC).groupby(by).transform("min")
    late = tells.groupby(by).transform("any") & (at.where(tells).groupby(by).transform("min") > first)
    _say(
        wrong, late & (at == first), told["machine"], "whose {} is, is told later alone: name its tenant here"
    )
    _say(wrong, (kind == "owner-changed") & ~tells, told["machine"], "{} changes its owner to no tenant")


def _say(wrong: Wrong, where: pd.Series, told: pd.Series, words: str) -> None:
    wrong += [(int(line), words.format(told[line])) for line in told.index[where][: NAMED + 1]]


def _sentence(wrong: Wrong) -> str:
    named = "; ".join(f"line {line}: {words}" for line, words in wrong[:NAMED])
    return f"{named}; and more." if len(wrong) > NAMED else f"{named}."
