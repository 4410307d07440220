"""The PDF of a bill, read back with the tools of poppler; and the Parquet file."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from reports import files
from reports.page import page
from reports.pdf import pdf
from tests.unit.test_bill import bill, documented
from vdc.customers import addressed
from vdc.documents import Party, canonical, sha256
from vdc.schema import Tenant

TENANT = Tenant(
    name="acme",
    legal_name="Ñandú <b>&amp; S.L.",
    postal_address="Calle Mayor 1\n28013 Madrid",
    tax_id="ESB12345678",
    tax_name="VAT",
    tax_percent=Decimal(21),
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    issued = {"number": 17, "issued_at": "2026-11-01T12:15:08+00:00", "issued_by": "schedule"}
    return addressed(bill(*documented()).document, TENANT, Party("Example", "Berlin", "DE1")) | issued


def poppler(tool: str, *arguments: str) -> str:
    return subprocess.run([tool, *arguments], check=True, capture_output=True, text=True, timeout=60).stdout


def test_a_customer_finds_what_when_how_much_and_why(document: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "bill.pdf"
    file.write_bytes(pdf(document))
    text = poppler("pdftotext", "-layout", str(file), "-")
    for shown in (
        "Bill 17",
        "Ñandú <b>&amp; S.L.",
        "28013 Madrid",
        "Tax number ESB12345678",
        "Example",
        "745 hours, Europe/Madrid",
        "To pay: 67.59 EUR",
        "web (new)",
        "Each line is rounded to the cent",
        sha256(canonical(document)),
        "page 2 of 2",
    ):
        assert shown in text, shown
    rows = [line.split() for line in text.splitlines()]
    assert ["VAT", "21%", "11.73"] in rows
    assert any(row[:2] == ["16", "vCPU"] and row[-1] == "16.15" and "504.83" in row for row in rows)
    about = poppler("pdfinfo", str(file))
    for key, value in (
        ("Title", "Bill 17: acme, 2026-10"),
        ("Author", "Example"),
        ("Subject", "67.59 EUR, 2026-10"),
        ("Page size", "595.28 x 841.89 pts (A4)"),
        ("Pages", "2"),
    ):
        assert any(x.startswith(f"{key}:") and x.endswith(value) for x in about.splitlines()), key


def test_its_json_is_in_it_and_it_is_always_the_same(document: dict[str, Any], tmp_path: Path) -> None:
    made = pdf(document)
    assert made == pdf(json.loads(json.dumps(document)))
    (tmp_path / "bill.pdf").write_bytes(made)
    poppler("pdfdetach", "-saveall", "-o", str(tmp_path), str(tmp_path / "bill.pdf"))
    assert (tmp_path / "bill-17.json").read_text() == canonical(document)


def test_fonts_are_in_it(document: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "bill.pdf").write_bytes(pdf(document))
    fonts = poppler("pdffonts", str(tmp_path / "bill.pdf")).splitlines()[2:]
    assert fonts
    assert all("DejaVuSans" in font for font in fonts)
    assert all(font.split()[-5:-2] == ["yes", "yes", "yes"] for font in fonts), "embedded, subset, unicode"


def test_a_preview_has_no_number_and_nothing_attached(tmp_path: Path) -> None:
    preview = bill(*documented(), now=datetime(2026, 10, 15, tzinfo=UTC)).document
    (tmp_path / "p.pdf").write_bytes(pdf(preview))
    text = poppler("pdftotext", "-layout", str(tmp_path / "p.pdf"), "-")
    assert "Not a bill. What was used until 15 Oct" in text
    assert "without tax" in text
    assert "0 embedded files" in poppler("pdfdetach", "-list", str(tmp_path / "p.pdf"))


def test_nothing_used_makes_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "p.pdf").write_bytes(pdf(bill().document))
    assert "Nothing was used." in poppler("pdftotext", str(tmp_path / "p.pdf"), "-")


def test_the_page_shows_both_sides_and_the_tax(document: dict[str, Any]) -> None:
    text = page(document)
    for shown in ("67.59 EUR", "VAT 21%: 11.73", "Ñandú &lt;b&gt;&amp;amp; S.L.", "Tax number ESB12345678"):
        assert shown in text, shown
    assert "without tax" not in text


def test_parquet_adds_up_to_the_bill(document: dict[str, Any], tmp_path: Path) -> None:
    (file,) = (f for f in files.write(document, tmp_path) if f.suffix == ".parquet")
    frame = pd.read_parquet(file)
    assert frame["amount"].sum() == Decimal("55.86")
    assert list(frame["line"]) == list(range(1, 19))
    assert str(frame["from"].dtype) == "datetime64[us, UTC]"
    assert frame["hours"].sum() == pytest.approx(sum(float(x["hours"]) for x in document["lines"]))
    assert set(frame["number"]) == {17}
