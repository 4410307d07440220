"""A tariff: what an hour and a month cost, and what a machine pays in which state.

Decimal throughout. Nothing is rounded here but by `to_cent`, which a bill calls once for each line.
Files of tariffs are read by vdc/tariff_file.py; which one is in force when, vdc/tariff_book.py says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from vdc.errors import Invalid

CENT = Decimal("0.01")
MAX_PRICE = Decimal(1_000_000)
MAX_PLACES = 12
ONE = Decimal(1)
NOTHING = Decimal(0)


@dataclass(frozen=True, slots=True)
class Shares:
    """What a machine that does not run pays of each price: 0 nothing, 1 all of it. Raises Invalid."""

    vcpu: Decimal = NOTHING
    memory: Decimal = NOTHING
    disk: Decimal = ONE
    snapshots: Decimal = ONE
    addresses: Decimal = ONE
    licence: Decimal = NOTHING

    def __post_init__(self) -> None:
        for name in SHARES:
            share = getattr(self, name)
            check_places(name, share)
            if not 0 <= share <= 1:
                raise Invalid(f"{name} {share} is refused: a share of a price is between 0 and 1.")


SHARES = tuple(f.name for f in fields(Shares))


@dataclass(frozen=True, slots=True)
class Flat:
    """What is charged for a calendar month whatever is used; for a part of it, that part. Raises Invalid."""

    name: str
    month: Decimal

    def __post_init__(self) -> None:
        if not 1 <= len(self.name) <= 63 or not self.name.isprintable():
            raise Invalid(f"Flat item {self.name!r} is refused: its name has 1 to 63 printable characters.")
        check_price(f"flat item {self.name!r}: month", self.month)


@dataclass(frozen=True, slots=True)
class Discount:
    """What lies above `above` in a month (up to the next step) is `percent` cheaper. Raises Invalid."""

    above: Decimal
    percent: Decimal

    def __post_init__(self) -> None:
        check_price("discount: above", self.above)
        check_places("discount: percent", self.percent)
        if not 0 <= self.percent <= 100:
            raise Invalid(f"discount: percent {self.percent} is refused: it is between 0 and 100.")


@dataclass(frozen=True, slots=True)
class Tariff:
    """Prices without tax, in `currency`. Raises Invalid for one that cannot be."""

    vcpu_hour: Decimal = Decimal("0.0080")
    memory_gib_hour: Decimal = Decimal("0.0040")
    disk_gib_month: Decimal = Decimal("0.0500")
    ec2_margin: Decimal = Decimal("1.20")
    """Factor on the price that EC2 asks for an instance: 1.20 adds a fifth."""
    currency: str = "EUR"
    snapshot_gib_month: Decimal = NOTHING
    image_gib_month: Decimal = NOTHING
    """Of images that belong to a tenant."""
    address_hour: Decimal = NOTHING
    """Of a public address."""
    traffic_gib: Decimal = NOTHING
    """Of what a machine sends."""
    licence_hour: Mapping[str, Decimal] = field(default_factory=dict)
    """By the name of the image that a machine was made from."""
    stopped: Shares = field(default_factory=Shares)
    suspended: Shares = field(default_factory=Shares)
    held: Shares = field(default_factory=Shares)
    flat: tuple[Flat, ...] = ()
    discounts: tuple[Discount, ...] = ()
    """By `above`, rising."""

    def __post_init__(self) -> None:
        for name in PRICES:
            check_price(name, getattr(self, name))
        for image, price in self.licence_hour.items():
            check_price(f"licence_hour of {image!r}", price)
        if not re.fullmatch(r"[A-Z]{3}", self.currency):
            raise Invalid(f"Currency {self.currency!r} is none: give three capital letters, such as EUR.")
        names = [item.name for item in self.flat]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Invalid(f"Flat item {twice[0]!r} is there twice.")
        steps = [step.above for step in self.discounts]
        if steps != sorted(set(steps)):
            raise Invalid("The steps of a discount are refused: each begins above the one before it.")

    def described(self) -> dict[str, Any]:
        """As a bill's JSON shows it, and a tariff is kept: numbers as text."""
        return {f.name: _described(getattr(self, f.name)) for f in fields(self)}


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: str(price) for key, price in sorted(value.items())}
    if isinstance(value, tuple):
        return [_described(part) for part in value]
    if isinstance(value, (Shares, Flat, Discount)):
        return {f.name: str(getattr(value, f.name)) for f in fields(value)}
    return str(value)


LIST_PRICES = ("vcpu_hour", "memory_gib_hour", "disk_gib_month", "ec2_margin")
"""Prices that every tariff names."""

PRICES = (*LIST_PRICES, "snapshot_gib_month", "image_gib_month", "address_hour", "traffic_gib")

STATES = ("running", "stopped", "suspended", "held")
"""What a machine pays depends on which of these it is in. All but the first have shares."""


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is charged: `quantity` names the event's column, `divisor` makes `unit` of it."""

    what: str
    provider: str
    quantity: str
    divisor: int
    unit: str
    price: str
    """The tariff's price that applies (of EC2: the factor on the instance's own; of a licence, by image)."""
    share: str = ""
    """Which of the tariff's shares applies while the machine does not run; empty: nothing is paid then."""
    per_month: bool = False
    """The price is for a calendar month, not for an hour."""
    reserved: bool = False
    """Also due of a machine on hold that was never made."""

    @property
    def unit_of_price(self) -> str:
        return f"{self.unit} {'month' if self.per_month else 'hour'}"

    def shares(self, tariff: Tariff) -> dict[str, Decimal]:
        """What is paid of the price in each of STATES."""
        due = {"running": ONE}
        for state in STATES[1:]:
            due[state] = getattr(getattr(tariff, state), self.share) if self.share else NOTHING
        return due


ITEMS = (
    Item("vCPU", "local", "vcpu", 1, "vCPU", "vcpu_hour", "vcpu", reserved=True),
    Item("memory", "local", "memory_mib", 1024, "GiB", "memory_gib_hour", "memory", reserved=True),
    Item("disk", "local", "disk_mib", 1024, "GiB", "disk_gib_month", "disk", per_month=True),
    Item("EC2 instance", "ec2", "instances", 1, "instance", "ec2_margin"),
    Item(
        "snapshots", "local", "snapshot_mib", 1024, "GiB", "snapshot_gib_month", "snapshots", per_month=True
    ),
    Item("public address", "local", "addresses", 1, "address", "address_hour", "addresses", reserved=True),
    Item("licence", "local", "instances", 1, "machine", "licence_hour", "licence"),
    Item("image", "image", "disk_mib", 1024, "GiB", "image_gib_month", per_month=True),
)
"""What is paid for by time. A paused machine keeps its vCPUs and its memory, and pays as one that runs."""

TRAFFIC, FLAT, DISCOUNT = "traffic", "flat item", "discount"
WHATS = (*(item.what for item in ITEMS), TRAFFIC, FLAT, DISCOUNT)
"""All that a line can be for, in the order in which a machine's lines come."""


def to_cent(amount: Decimal) -> Decimal:
    """Half a cent goes up."""
    return amount.quantize(CENT, ROUND_HALF_UP)


def decimal_of(name: str, value: object) -> Decimal:
    """Text or a number as a decimal number. Raises Invalid."""
    try:
        return Decimal(str(value))
    except InvalidOperation as error:
        raise Invalid(f"{name} {value!r} is refused: give a decimal number, such as 0.0080.") from error


def make_tariff(values: Mapping[str, object], source: str) -> Tariff:
    """A tariff of plain prices, from text or numbers. `source` is named in errors. Raises Invalid."""
    try:
        prices: dict[str, Any] = {name: decimal_of(name, values[name]) for name in LIST_PRICES}
        return Tariff(**prices, currency=str(values["currency"]))
    except Invalid as error:
        raise Invalid(f"{source}: {error}") from error


def check_price(name: str, price: Decimal) -> None:
    check_places(name, price)
    if not 0 <= price <= MAX_PRICE:
        raise Invalid(f"{name} {price} is refused: a price is between 0 and {MAX_PRICE:,}.")


def check_places(name: str, number: Decimal) -> None:
    """Raises Invalid for what is no number, or has more than MAX_PLACES decimal places."""
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise Invalid(f"{name} {number} is refused: it is no number.")
    if -exponent > MAX_PLACES:
        raise Invalid(f"{name} {number} is refused: it has more than {MAX_PLACES} decimal places.")
