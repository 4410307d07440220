"""Tariffs: what is accepted, what is refused, and that prices are never binary fractions."""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from vdc.errors import Invalid
from vdc.pricing import per_hour, per_month
from vdc.settings import Settings
from vdc.tariff import Discount, Flat, Shares, Tariff, to_cent
from vdc.tariff_file import kept, load_tariff, load_version, version_of

DOC = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()
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


def test_the_whole_tariff_of_the_docs(tmp_path: Path) -> None:
    prices, more = (re.search(rf"```{kind}\n(.*?)```", DOC, re.DOTALL) for kind in ("toml", "yaml"))
    assert prices
    assert more
    text = re.sub(" *#.*", "", prices[1]).replace(" =", ":") + more[1]
    version = load_version(written(tmp_path, text, "tariff.yaml"))
    assert (version.tenant, version.label) == ("acme", "acme, from 2026-10-15")
    assert (version.valid_from, version.valid_until) == (date(2026, 10, 15), date(2027, 1, 1))
    tariff = version.tariff
    assert (tariff.stopped, tariff.held) == (Shares(vcpu=Decimal("0.10")), Shares(vcpu=Decimal("0.5")))
    assert tariff.flat == (Flat("Support", Decimal(25)),)
    assert tariff.discounts == (Discount(Decimal(100), Decimal(5)), Discount(Decimal(1000), Decimal(10)))
    assert tariff.licence_hour == {"windows-2022": Decimal("0.05")}
    assert version_of(kept(tariff)).tariff == tariff, "what is kept of it makes it again"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("valid_from = 2026-13-01", "is not TOML"),
        ('valid_from = "soon"', "valid_from 'soon' is refused: give a day"),
        ("valid_from = 2026-10-02\nvalid_until = 2026-10-02", "it must be after valid_from"),
        ("valid_until = 2026-10-02", "it must be after valid_from"),
        ("[stopped]\ncpu = 1", r"\[stopped\] has unknown: cpu; known: vcpu, memory"),
        ("[held]\nvcpu = 1.5", r"\[held\]: vcpu 1.5 is refused: a share of a price is between 0 and 1"),
        ("[licence_hour]\nwindows = -1", "licence_hour of 'windows' -1 is refused"),
        ("licence_hour = 3", "licence_hour 3 is refused: it is a table"),
        ("flat = 3", "flat is refused: it is a list, each with name and month"),
        ('[[flat]]\nname = "x"', r"\[\[flat\]\] has missing: month"),
        ('[[flat]]\nname = "x"\nmonth = 1\n[[flat]]\nname = "x"\nmonth = 1', "Flat item 'x' is there twice"),
        ("[[discount]]\nabove = 1\npercent = 101", "percent 101 is refused"),
        (
            "[[discount]]\nabove = 2\npercent = 1\n[[discount]]\nabove = 1\npercent = 2",
            "each begins above the",
        ),
        ("tenant = 7", "tenant 7 is refused: it is a text"),
    ],
)
def test_what_a_tariff_cannot_have_is_refused(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        load_version(written(tmp_path, TOML + more))


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
