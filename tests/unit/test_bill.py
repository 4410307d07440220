"""Bills: the table of docs/billing.md to the cent, any bill against fractions, and their files."""

from __future__ import annotations

import csv
import io
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import files
from reports.bill import bills
from reports.page import page, per_day
from tests.unit.histories import TENANT, event, frame
from vdc.billed import Billed, Draft
from vdc.errors import Invalid
from vdc.months import Month
from vdc.tariff import Tariff, to_cent
from vdc.tariff_book import TariffBook

DOC = (Path(__file__).parents[2] / "docs" / "billing.md").read_text()
MADRID = Billed(TENANT, "acme", "Europe/Madrid")
OCTOBER = Month(2026, 10)


def bill(*rows: Any, tenant: Billed = MADRID, month: Month = OCTOBER, **options: Any) -> Draft:
    book = TariffBook.always(options.pop("tariff", Tariff()))
    (draft,) = bills(frame(*rows), [tenant], month, book, site="site", **options)
    return draft


def table(heading: str) -> list[list[str]]:
    """Rows of the table of the docs whose heading begins so."""
    lines = DOC[DOC.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def documented() -> list[tuple[Any, ...]]:
    return [
        event(
            name,
            kind,
            when,
            vcpu=int(vcpu),
            memory_mib=int(float(memory) * 1024),
            disk_mib=int(disk) * 1024,
            hourly_price=price,
        )
        for name, when, kind, vcpu, memory, disk, price in table("| machine | when |")
    ]


def test_the_bill_of_the_docs_to_the_cent() -> None:
    """Made again with another size, stopped, on EC2, gone within a second; October with 745 hours."""
    made = bill(*documented())
    *expected, total = table("| machine | what |")
    seen = [[x["machine"], x["what"], x["hours"], x["quantity"], x["amount"]] for x in made.document["lines"]]
    assert seen == [[name, what, hours, quantity, eur] for name, what, hours, quantity, _, eur in expected]
    assert made.total == Decimal(total[-1])
    assert sum(Decimal(row[-1]) for row in expected) == Decimal(total[-1])
    assert made.document["hours"] == "745"
    assert (made.document["from"], made.document["to"]) == (
        "2026-10-01T00:00:00+02:00",
        "2026-11-01T00:00:00+01:00",
    )


def test_the_tariff_of_the_docs_is_the_default(tmp_path: Path) -> None:
    from vdc.tariff_file import load_tariff

    found = re.search(r"```toml\n(.*?)```", DOC, re.DOTALL)
    assert found
    file = tmp_path / "tariff.toml"
    file.write_text(found[1])
    assert load_tariff(file) == Tariff()


def test_an_open_machine_in_a_preview_is_charged_to_now() -> None:
    now = datetime(2026, 10, 11, tzinfo=UTC)
    rows = (
        event("web", "created", "2026-10-01T00:00:00+02:00"),
        event("web", "started", "2026-10-01T00:00:00+02:00"),
    )
    preview = bill(*rows, now=now)
    assert preview.document["kind"] == "preview"
    assert preview.document["charged_until"] == "2026-10-11T02:00:00+02:00"
    assert {line["hours"] for line in preview.document["lines"]} == {"242"}
    # The price of a GiB month is for the whole month, also while it runs.
    assert preview.document["lines"][-1]["amount"] == str(to_cent(Decimal(5) / 10 * 242 / 745))


def test_months_tile() -> None:
    """What two months bill of a machine is what it cost, but for half a cent a line."""
    rows = [
        event("web", "created", "2026-09-10T12:00:00+02:00", vcpu=3),
        event("web", "started", "2026-09-10T12:00:00+02:00", vcpu=3),
        event("web", "terminated", "2026-11-20T12:00:00+01:00", vcpu=3),
    ]
    lines = [bill(*rows, month=Month(2026, m)).document["lines"] for m in (8, 9, 10, 11, 12)]
    hours = [sum((Decimal(x["hours"]) for x in month if x["what"] == "vCPU"), Decimal(0)) for month in lines]
    assert hours == [0, 20 * 24 + 12, 745, 19 * 24 + 12, 0]
    assert sum(hours) == 71 * 24 + 1


def test_an_instance_without_a_price_stops_the_bill() -> None:
    row = list(event("peak", "started", "2026-10-02T00:00:00+00:00"))
    row[8] = "ec2"
    with pytest.raises(Invalid, match="Machine peak runs at ec2, and no price"):
        bill(row)


def test_nothing_used_is_nothing_owed() -> None:
    made = bill()
    assert (made.total, made.document["lines"]) == (Decimal("0.00"), [])
    assert "Nothing was used" in page(made.document)


def test_only_the_tenants_own_events_are_on_its_bill() -> None:
    other = Billed("t-other", "other", "UTC")
    both = bills(frame(*documented()), [other, MADRID], OCTOBER, TariffBook.always(Tariff()), site="site")
    assert [draft.total for draft in both] == [Decimal("0.00"), Decimal("55.86")]


prices = st.decimals("0", "5", places=6)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 31 * 86400 * 10**6),
    st.integers(1, 40 * 86400 * 10**6),
    st.integers(1, 128),
    st.integers(16, 10**6),
    st.integers(1, 10**8),
    st.tuples(prices, prices, prices),
)
def test_any_amount_is_the_exact_one_rounded_once(
    start_us: int, length_us: int, vcpu: int, memory: int, disk: int, asked: tuple[Decimal, Decimal, Decimal]
) -> None:
    window = MADRID.window(OCTOBER)
    begin = window.begin + timedelta(microseconds=start_us)
    end = min(begin + timedelta(microseconds=length_us), window.end)
    size = {"vcpu": vcpu, "memory_mib": memory, "disk_mib": disk}
    made = bill(
        event("web", "created", begin, **size),
        event("web", "started", begin, **size),
        event("web", "terminated", end, **size),
        tariff=Tariff(*asked),
    )
    if begin >= end:
        assert made.document["lines"] == []
        return
    hours = Fraction((end - begin) // timedelta(microseconds=1), 3_600_000_000)
    exact = [
        Fraction(asked[0]) * vcpu * hours,
        Fraction(asked[1]) * Fraction(memory, 1024) * hours,
        Fraction(asked[2]) * Fraction(disk, 1024) * hours / 745,
    ]
    # In whole cents, half up, without a decimal number in sight.
    expected = [Decimal((2 * 100 * x + 1) // 2).scaleb(-2) for x in exact]
    assert [Decimal(line["amount"]) for line in made.document["lines"]] == expected
    assert made.total == sum(expected)


# -- files ------------------------------------------------------------------------------------------------


def test_the_csv_adds_up_to_the_bill() -> None:
    made = bill(*documented())
    rows = list(csv.DictReader(io.StringIO(files.to_csv(made.document))))
    assert sum(Decimal(row["amount"]) for row in rows) == made.total
    assert {(row["tenant"], row["month"], row["currency"]) for row in rows} == {("acme", "2026-10", "EUR")}


def test_the_json_holds_all_that_is_needed_to_compute_the_bill_again() -> None:
    document = json.loads(files.to_json(bill(*documented()).document))
    for line in document["lines"]:
        lasted = datetime.fromisoformat(line["to"]) - datetime.fromisoformat(line["from"])
        exact = Decimal(lasted // timedelta(microseconds=1)) / 3_600_000_000
        exact *= Decimal(line["quantity"]) * Decimal(line["unit_price"])
        if line["per"].endswith("month"):
            exact /= Decimal(document["hours"])
        assert exact.quantize(Decimal("0.01"), ROUND_HALF_UP) == Decimal(line["amount"])


def test_the_page_fetches_nothing_and_trusts_nobody() -> None:
    rows = [
        event("<script>alert(1)</script>", kind, "2026-10-02T00:00:00+00:00")
        for kind in ("created", "started")
    ]
    text = page(bill(*rows).document)
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    fetching = re.findall(r"""(?:src|href)=["'](?!#)|url\((?!["']?#)|@import""", text)
    assert fetching == []
    assert "<svg" in text


def test_a_preview_says_that_it_is_none() -> None:
    text = page(bill(*documented(), now=datetime(2026, 10, 15, tzinfo=UTC)).document)
    assert "Not a bill" in text
    assert "<title>Preview" in text


def test_the_days_of_the_picture_add_up_to_the_bill() -> None:
    made = bill(*documented())
    cost = per_day(made.document)
    assert {len(days) for days in cost.values()} == {31}
    assert sum(map(sum, cost.values())) == pytest.approx(float(made.total))
    assert cost["EC2 instance"][24] > 0
    assert cost["EC2 instance"][25] == 0


def test_files_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(Invalid, match="cannot be written"):
        files.write(bill().document, tmp_path / "out")
