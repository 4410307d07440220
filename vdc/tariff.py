"""A tariff: what an hour and a month cost, and what a machine pays in which state.

Decimal throughout. Nothing is rounded here but by `to_cent`, which a bill calls once for each line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from vdc.errors import Invalid

CENT = Decimal("0.01")
MAX_PRICE = Decimal(1_000_000)
MAX_PLACES = 12


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices without tax, in `currency`. Raises Invalid for one that cannot be."""

    vcpu_hour: Decimal = Decimal("0.0080")
    memory_gib_hour: Decimal = Decimal("0.0040")
    disk_gib_month: Decimal = Decimal("0.0500")
    ec2_margin: Decimal = Decimal("1.20")
    """Factor on the price that EC2 asks for an instance: 1.20 adds a fifth."""
    currency: str = "EUR"

    def __post_init__(self) -> None:
        for name in PRICES:
            _check_price(name, getattr(self, name))
        if not re.fullmatch(r"[A-Z]{3}", self.currency):
            raise Invalid(f"Currency {self.currency!r} is none: give three capital letters, such as EUR.")

    def described(self) -> dict[str, str]:
        """As a bill's JSON shows it."""
        return {name: str(value) for name, value in asdict(self).items()}


PRICES = tuple(f.name for f in fields(Tariff) if f.name != "currency")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is charged: `quantity` names the event's column, `divisor` makes `unit` of it."""

    what: str
    provider: str
    quantity: str
    divisor: int
    unit: str
    price: str
    """The tariff's price that applies (of EC2: the factor on the instance's own price)."""
    while_stopped: bool
    per_month: bool = False
    """The price is for a calendar month, not for an hour."""

    @property
    def unit_of_price(self) -> str:
        return f"{self.unit} {'month' if self.per_month else 'hour'}"


ITEMS = (
    Item("vCPU", "local", "vcpu", 1, "vCPU", "vcpu_hour", while_stopped=False),
    Item("memory", "local", "memory_mib", 1024, "GiB", "memory_gib_hour", while_stopped=False),
    Item("disk", "local", "disk_mib", 1024, "GiB", "disk_gib_month", while_stopped=True, per_month=True),
    Item("EC2 instance", "ec2", "instances", 1, "instance", "ec2_margin", while_stopped=False),
)
"""What a machine pays. A paused one keeps its vCPUs and its memory, and pays as one that runs."""


def to_cent(amount: Decimal) -> Decimal:
    """Half a cent goes up."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def make_tariff(values: Mapping[str, object], source: str) -> Tariff:
    """A tariff from text or numbers. `source` is named in errors. Raises Invalid."""
    made: dict[str, Any] = {"currency": str(values["currency"])}
    for name in PRICES:
        try:
            made[name] = Decimal(str(values[name]))
        except InvalidOperation as error:
            raise Invalid(
                f"{source}: {name} {values[name]!r} is refused: give a decimal number, such as 0.0080."
            ) from error
    try:
        return Tariff(**made)
    except Invalid as error:
        raise Invalid(f"{source}: {error}") from error


def load_tariff(file: Path) -> Tariff:
    """Read a tariff from a `.toml`, `.yaml` or `.yml` file that names every price and the currency.

    Raises Invalid.
    """
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"Tariff {file} cannot be read: {error}.") from error
    values = _parsed(file, text)
    if not isinstance(values, dict):
        raise Invalid(f"Tariff {file} is refused: it must be a list of `name: value`.")
    known = [f.name for f in fields(Tariff)]
    unknown, missing = sorted(map(str, set(values) - set(known))), [k for k in known if k not in values]
    if unknown or missing:
        said = [f"{what}: {', '.join(names)}" for what, names in (("unknown", unknown), ("missing", missing))
                if names]  # fmt: skip
        raise Invalid(f"Tariff {file} is refused ({'; '.join(said)}).")
    return make_tariff(values, f"Tariff {file}")


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


def _check_price(name: str, price: Decimal) -> None:
    exponent = price.as_tuple().exponent
    if not isinstance(exponent, int):
        raise Invalid(f"{name} {price} is refused: it is no number.")
    if not 0 <= price <= MAX_PRICE:
        raise Invalid(f"{name} {price} is refused: a price is between 0 and {MAX_PRICE:,}.")
    if -exponent > MAX_PLACES:
        raise Invalid(f"{name} {price} is refused: it has more than {MAX_PLACES} decimal places.")
