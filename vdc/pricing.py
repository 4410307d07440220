"""What things cost by the hour, for plans and lists. Pure. A bill counts for itself: reports/bill.py.

What is charged is said once, in vdc.tariff.ITEMS: a plan's hour is a bill's hour, unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from vdc.errors import Invalid
from vdc.tariff import ITEMS, NOTHING, Item, Tariff, to_cent

HOURS_PER_MONTH = Decimal(730)
"""A plan's month: a twelfth of 8,760 hours. A bill counts the hours of its calendar month instead."""

ListPrices = Tariff


@dataclass(frozen=True, slots=True)
class Level:
    """What a machine, a kept disk or a tenant's image is charged by, as usage events tell it.

    `state` is one of vdc.tariff.STATES; `addresses` are public ones, `image` is that of which a machine was
    made, `hourly_price` what the provider asks for an instance.
    """

    provider: str = "local"
    state: str = "running"
    vcpu: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    snapshot_mib: int = 0
    addresses: int = 0
    image: str = ""
    hourly_price: Decimal | None = None
    instances: int = 1


@dataclass(frozen=True, slots=True)
class Cost:
    """What an hour costs before an act and after it, unrounded; `note` says what else there is to know.

    None: it is not known, and `note` says why. `at_most`: what is kept is measured when it is there.
    """

    before: Decimal | None
    after: Decimal | None
    currency: str
    at_most: bool = False
    note: str = ""


def cost_per_hour(tariff: Tariff, level: Level) -> Decimal:
    """Of what there is on that level, unrounded. Raises Invalid for an instance without a known price."""
    return sum((_of_item(tariff, item, level) for item in ITEMS if item.provider == level.provider), NOTHING)


def _of_item(tariff: Tariff, item: Item, level: Level) -> Decimal:
    share = item.shares(tariff)[level.state]
    if item.price == "licence_hour":
        price = tariff.licence_hour.get(level.image, NOTHING)
    elif item.provider == "ec2":
        if level.hourly_price is None:
            raise Invalid("No price of its instance was recorded.")
        price = level.hourly_price * tariff.ec2_margin
    else:
        price = getattr(tariff, item.price)
    amount: Decimal = price * share * getattr(level, item.quantity) / item.divisor
    return amount / HOURS_PER_MONTH if item.per_month else amount


def told(cost: Cost) -> str:
    """For people: an hour and a month (730 hours), before the act and after it."""
    if cost.before is None or cost.after is None:
        return cost.note
    hour, month = f"{cost.after:.4f} {cost.currency}", f"{per_month(cost.after)} {cost.currency}"
    if cost.at_most:
        hour, month = f"at most {hour}", f"at most {month}"
    if cost.before not in (0, cost.after):
        hour, month = f"{cost.before:.4f} -> {hour}", f"{per_month(cost.before)} -> {month}"
    same = ", unchanged" if cost.before == cost.after else ""
    return f"{hour} an hour, {month} a month (730 hours){same}. {cost.note}".rstrip()


def cost_of(
    tariff: Tariff,
    before: Iterable[Level],
    after: Iterable[Level],
    *,
    at_most: bool = False,
    note: str = "",
) -> Cost:
    """What an act changes, by what is charged before it and after it."""
    try:
        sums = [sum((cost_per_hour(tariff, level) for level in side), NOTHING) for side in (before, after)]
    except Invalid as error:
        return Cost(None, None, tariff.currency, note=str(error))
    return Cost(sums[0], sums[1], tariff.currency, at_most, note)


def per_hour(tariff: Tariff, vcpu: int, memory_mib: int, disk_mib: int) -> Decimal:
    """Price of one hour of a running machine's size, unrounded: without addresses, licences, snapshots."""
    return cost_per_hour(tariff, Level(vcpu=vcpu, memory_mib=memory_mib, disk_mib=disk_mib, image=""))


def per_month(hourly: Decimal) -> Decimal:
    """Price of a plan's month (730 hours), rounded to the cent."""
    return to_cent(hourly * HOURS_PER_MONTH)
