"""Tariffs: what is accepted, what is refused, and that prices are never binary fractions."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from vdc.errors import Invalid
from vdc.pricing import per_hour, per_month
from vdc.settings import Settings
from vdc.tariff import Tariff, to_cent
from vdc.tariff_file import load_tariff

TOML = """
vcpu_hour = 0.1
memory_gib_hour = 0.0123456789
disk_gib_month = 2
ec2_margin = "1.15"
currency = "CHF"
"""
EXPECTED = Tariff(Decimal("0.1"), Decimal("0.0123456789"), Decimal(2), Decimal("1.15"), "CHF")


def written(directory: Path, text: str, name: str = "tariff.toml") -> Path:
    file = directory / name
    file.write_text(text)
    return file


def test_a_file_is_read_to_the_digit(tmp_path: Path) -> None:
    assert load_tariff(written(tmp_path, TOML)) == EXPECTED
    assert load_tariff(written(tmp_path, TOML.replace(" =", ":"), "tariff.yaml")) == EXPECTED
    assert str(load_tariff(written(tmp_path, TOML)).vcpu_hour) == "0.1"


def test_the_settings_are_the_default(tmp_path: Path) -> None:
    assert Settings(home=tmp_path).prices == Tariff()
    dear = Settings(home=tmp_path, price_vcpu_hour="1", price_ec2_margin="2", currency="USD").prices
    assert dear == Tariff(vcpu_hour=Decimal(1), ec2_margin=Decimal(2), currency="USD")
    with pytest.raises(Invalid, match=r"price_\*: vcpu_hour 'much'"):
        _ = Settings(home=tmp_path, price_vcpu_hour="much").prices


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("vcpu_hour = 0.1", "", "missing: vcpu_hour"),
        ("vcpu_hour = 0.1", "vcpu_hour = 0.1\ncpu_hour = 1", "unknown: cpu_hour"),
        ("0.1", "-0.1", "vcpu_hour -0.1 is refused"),
        ("0.1", "nan", "vcpu_hour NaN is refused"),
        ("0.1", "inf", "vcpu_hour Infinity is refused"),
        ("0.1", '"dear"', "vcpu_hour 'dear' is refused"),
        ("0.1", "true", "vcpu_hour True is refused"),
        ("0.1", "[1]", "is refused"),
        ("0.1", "10000000", "between 0 and 1,000,000"),
        ("0.0123456789", "0.01234567890123", "more than 12 decimal places"),
        ("CHF", "Francs", "three capital letters"),
        ("vcpu_hour = 0.1", "vcpu_hour = = 0.1", "is not TOML"),
    ],
)
def test_what_is_no_tariff_is_refused(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load_tariff(written(tmp_path, TOML.replace(old, new)))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tariff.json", "{}", "must end in"),
        ("tariff.yml", "- 1", "must be a list of `name: value`"),
        ("tariff.yml", "a: b: c", "is not YAML"),
        ("tariff.yml", "", "must be a list of"),
    ],
)
def test_what_is_no_file_of_prices_is_refused(tmp_path: Path, name: str, text: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load_tariff(written(tmp_path, text, name))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read"):
        load_tariff(tmp_path / "none.toml")
    with pytest.raises(Invalid, match="cannot be read"):
        load_tariff(tmp_path)


def test_half_a_cent_goes_up() -> None:
    for amount, cents in (("0.005", "0.01"), ("0.00499999", "0.00"), ("0.015", "0.02"), ("2.675", "2.68")):
        assert to_cent(Decimal(amount)) == Decimal(cents)


def test_a_plan_is_for_730_hours() -> None:
    hourly = per_hour(Tariff(), vcpu=2, memory_mib=1536, disk_mib=10240)
    assert hourly == Decimal("0.022") + Decimal("0.5") / 730
    assert per_month(hourly) == Decimal("16.56")
