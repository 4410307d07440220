"""Price lists, and which instance type is chosen."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from deployments.lab.ec2.endpoint import PRICES
from vdc.cloud_prices import COLUMNS, parse
from vdc.cloud_prices import fitting as fit
from vdc.errors import Invalid

TODAY = date(2026, 11, 22)
HEAD = ",".join(COLUMNS)
LINE = "t3.nano,eu-west-1a,2,512,0.0057,EUR,2026-11-01"


def test_the_labs_list_is_one() -> None:
    listed = parse(PRICES.read_text(), "lab", today=TODAY)
    assert (listed.currency, listed.as_of) == ("EUR", date(2026, 11, 1))
    assert len(listed.prices) == 8


@pytest.mark.parametrize(
    ("vcpu", "memory_mib", "limit", "first"),
    [
        (1, 96, None, ("t3.nano", "eu-west-1a")),
        (2, 513, None, ("t3.micro", "eu-west-1a")),
        (3, 100, None, ("m5.xlarge", "eu-west-1a")),
        (5, 100, None, None),
        (3, 100, "0.20", None),
        (1, 8192, "0.107", ("m5.large", "eu-west-1a")),
    ],
)
def test_the_cheapest_that_fits_is_first(
    vcpu: int, memory_mib: int, limit: str | None, first: tuple[str, str] | None
) -> None:
    prices = parse(PRICES.read_text(), "lab", today=TODAY).prices
    offers = fit(prices, vcpu, memory_mib, Decimal(limit) if limit else None)
    assert (offers[0].instance_type, offers[0].zone) == first if first else offers == ()
    assert list(offers) == sorted(offers, key=lambda o: (o.price_per_hour, o.instance_type, o.zone))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its first line must be"),
        ("type,price\nt3.nano,1\n", "its first line must be"),
        (HEAD + "\n", "is empty"),
        (f"{HEAD}\n{LINE},more\n", "line 2: 7 values"),
        (f"{HEAD}\nt3.nano,eu-west-1a,2\n", "line 2: 7 values"),
        (f"{HEAD}\n{LINE}\n{LINE}\n", "line 3: t3.nano in eu-west-1a is there twice"),
        (f"{HEAD}\n{LINE.replace('0.0057', '0.0')}\n", "price_per_hour 0.0 is refused"),
        (f"{HEAD}\n{LINE.replace('0.0057', '-1')}\n", "price_per_hour -1 is refused"),
        (f"{HEAD}\n{LINE.replace('0.0057', 'NaN')}\n", "price_per_hour NaN is refused"),
        (f"{HEAD}\n{LINE.replace('0.0057', 'cheap')}\n", "'cheap' is no decimal number"),
        (f"{HEAD}\n{LINE.replace(',2,', ',0,')}\n", "vcpu '0' is no whole number"),
        (f"{HEAD}\n{LINE.replace('512', '0.5')}\n", "memory_mib '0.5' is no whole number"),
        (f"{HEAD}\n{LINE.replace('EUR', 'euro')}\n", "currency 'euro' is none"),
        (f"{HEAD}\n{LINE}\n{LINE.replace('EUR', 'USD').replace('1a', '1b')}\n", "mixes currencies: EUR, USD"),
        (f"{HEAD}\n{LINE.replace('2026-11-01', 'today')}\n", "'today' is no day"),
        (f"{HEAD}\n{LINE.replace('2026-11-01', '2027-01-01')}\n", "is in the future"),
        (f"{HEAD}\n{LINE.replace('t3.nano', 'a b')}\n", "instance_type 'a b' is refused"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_the_line(text: str, said: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse(text, "prices.csv", today=TODAY)
    assert said in str(refused.value)
    assert "prices.csv" in str(refused.value)
