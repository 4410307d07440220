"""Files of tariffs, TOML or YAML: read, and refused with what is wrong and where. Format: docs/billing.md."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from vdc.errors import Invalid
from vdc.tariff import LIST_PRICES, PRICES, SHARES, STATES, Discount, Flat, Shares, Tariff, decimal_of

_TABLES = ("licence_hour", *STATES[1:], "flat", "discount")
_ABOUT = ("tenant", "valid_from", "valid_until")
KNOWN = (*_ABOUT, "currency", *PRICES, *_TABLES)
NEEDED = (*LIST_PRICES, "currency")


@dataclass(frozen=True, slots=True)
class Version:
    """A tariff and when it is in force: from the beginning of the day `valid_from` in the tenant's time zone
    to that of `valid_until`. None: always was, or until a later one. Without a tenant it is everyone's."""

    tariff: Tariff
    tenant: str = ""
    valid_from: date | None = None
    valid_until: date | None = None

    @property
    def label(self) -> str:
        """As a bill's line names it: `acme, from 2026-10-15`."""
        return f"{self.tenant or 'default'}, {f'from {self.valid_from}' if self.valid_from else 'always'}"


def load_tariff(file: Path) -> Tariff:
    """The prices in a file, whenever and whosever they are. Raises Invalid."""
    return load_version(file).tariff


def load_version(file: Path) -> Version:
    """Read a `.toml`, `.yaml` or `.yml` file. Raises Invalid."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"Tariff {file} cannot be read: {error}.") from error
    values = _parsed(file, text)
    if not isinstance(values, dict):
        raise Invalid(f"Tariff {file} is refused: it must be a list of `name: value`.")
    try:
        return version_of(values)
    except Invalid as error:
        raise Invalid(f"Tariff {file} is refused: {error}") from error


def version_of(values: Mapping[str, Any]) -> Version:
    """From the file's values, or from what `Tariff.described` gave. Raises Invalid."""
    _check_keys("the file", values, KNOWN, NEEDED)
    begin, end = (_day(name, values.get(name)) for name in ("valid_from", "valid_until"))
    if end is not None and (begin is None or end <= begin):
        raise Invalid(f"valid_until {end} is refused: it must be after valid_from.")
    return Version(_tariff(values), _text("tenant", values.get("tenant", "")), begin, end)


def _tariff(values: Mapping[str, Any]) -> Tariff:
    prices: dict[str, Any] = {name: decimal_of(name, values[name]) for name in PRICES if name in values}
    licences = _table("licence_hour", values.get("licence_hour", {}))
    shares: dict[str, Any] = {}
    for state in STATES[1:]:
        given = _table(state, values.get(state, {}))
        _check_keys(f"[{state}]", given, SHARES)
        try:
            shares[state] = Shares(**{name: decimal_of(name, share) for name, share in given.items()})
        except Invalid as error:
            raise Invalid(f"[{state}]: {error}") from error
    return Tariff(
        **prices,
        currency=_text("currency", values["currency"]),
        licence_hour={str(k): decimal_of(f"licence_hour of {k!r}", v) for k, v in licences.items()},
        **shares,
        flat=tuple(
            Flat(_text("flat: name", row["name"]), decimal_of("flat: month", row["month"]))
            for row in _rows("flat", values.get("flat", []), ("name", "month"))
        ),
        discounts=tuple(
            Discount(
                decimal_of("discount: above", row["above"]), decimal_of("discount: percent", row["percent"])
            )
            for row in _rows("discount", values.get("discount", []), ("above", "percent"))
        ),
    )


def kept(tariff: Tariff) -> dict[str, Any]:
    """What `version_of` makes the same tariff of: as it is kept."""
    described = tariff.described()
    described["discount"] = described.pop("discounts")
    return described


def _check_keys(
    where: str, values: Mapping[str, Any], known: tuple[str, ...], needed: tuple[str, ...] = ()
) -> None:
    unknown = sorted(str(key) for key in values if key not in known)
    missing = [key for key in needed if key not in values]
    said = [
        f"{what}: {', '.join(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names
    ]
    if said:
        hint = f"; known: {', '.join(known)}" if unknown else ""
        raise Invalid(f"{where} has {'; '.join(said)}{hint}.")


def _table(name: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise Invalid(f"{name} {value!r} is refused: it is a table of `name = number`.")
    return value


def _rows(name: str, value: object, keys: tuple[str, ...]) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise Invalid(f"{name} is refused: it is a list, each with {' and '.join(keys)}.")
    for row in value:
        _check_keys(f"[[{name}]]", row, keys, keys)
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Invalid(f"{name} {value!r} is refused: it is a text.")
    return value


def _day(name: str, value: object) -> date | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return date.fromisoformat(value)
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
    except ValueError:
        pass
    raise Invalid(f"{name} {str(value)!r} is refused: give a day, such as 2026-10-15.")


def _parsed(file: Path, text: str) -> object:
    """The file's content; numbers as they were written, never as binary fractions."""
    if file.suffix == ".toml":
        try:
            return tomllib.loads(text, parse_float=Decimal)
        except tomllib.TOMLDecodeError as error:
            raise Invalid(f"Tariff {file} is not TOML: {error}.") from error
    if file.suffix in (".yaml", ".yml"):
        import yaml

        try:
            # The base loader makes nothing but text, lists and maps.
            return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506
        except yaml.YAMLError as error:
            raise Invalid(f"Tariff {file} is not YAML: {' '.join(str(error).split())}.") from error
    raise Invalid(f"Tariff {file} is refused: its name must end in .toml, .yaml or .yml.")
