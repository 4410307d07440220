"""A bill, a preview or a credit note as a PDF that can be sent: A4, its JSON attached.

The same document gives the same bytes, whenever it is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from fpdf import FPDF, FontFace
from fpdf.enums import TableBordersLayout, XPos, YPos

from reports.page import COLOURS, per_day
from reports.printed import by_machine, by_what, how, with_sides
from vdc.documents import Document, canonical, label, sha256

INK, SOFT, SHADE, RULE = (28, 36, 48), (91, 102, 117), (244, 246, 248), (217, 222, 229)
MARGIN_MM, ROW_MM, BARS_MM = 16, 4.6, 36
WIDTHS_MM = (8, 22, 36, 36, 15, 18, 29, 14)
"""Of a line's columns."""
FONT = "DejaVu"


@lru_cache(maxsize=1)
def _fonts() -> Path:
    """Of matplotlib, which ships them: a PDF has to carry its fonts."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


class _Sheets(FPDF):
    """Pages with a footer."""

    def __init__(self, footer: str) -> None:
        super().__init__(format="A4")
        self._footer = footer
        self.set_margin(MARGIN_MM)
        self.set_auto_page_break(True, 20)
        self.add_font(FONT, "", str(_fonts() / "DejaVuSans.ttf"))
        self.add_font(FONT, "B", str(_fonts() / "DejaVuSans-Bold.ttf"))
        self.set_draw_color(*RULE)
        self.add_page()

    def footer(self) -> None:
        self.set_y(-14)
        self.write_in(self._footer, size=6.5, colour=SOFT, width=self.epw - 25, end=False)
        self.write_in(f"page {self.page_no()} of {{nb}}", size=6.5, colour=SOFT, width=25, align="R")

    def write_in(
        self,
        text: str,
        *,
        size: float = 9,
        bold: bool = False,
        colour: tuple[int, int, int] = INK,
        width: float = 0,
        align: str = "L",
        end: bool = True,
    ) -> None:
        """Text, wrapped; then on to the next line, or (not `end`) to the right of it."""
        self.set_font(FONT, "B" if bold else "", size)
        self.set_text_color(*colour)
        after = {"new_x": XPos.LMARGIN if end else XPos.RIGHT, "new_y": YPos.NEXT if end else YPos.TOP}
        self.multi_cell(width, size * 0.5, text, align=align, **after)

    def rows(self, rows: Sequence[Sequence[str]], widths: Sequence[int], right: int, *, head: bool) -> None:
        """A table; the last `right` columns to the right. A head is there again on each page."""
        self.set_font(FONT, "", 7)
        self.set_text_color(*INK)
        self.set_fill_color(255)
        align = ["LEFT"] * (len(widths) - right) + ["RIGHT"] * right
        with self.table(
            col_widths=tuple(widths),
            text_align=tuple(align),
            borders_layout=TableBordersLayout.HORIZONTAL_LINES,
            first_row_as_headings=head,
            headings_style=FontFace(emphasis="BOLD", color=SOFT, fill_color=SHADE),
            line_height=ROW_MM,
        ) as table:
            for row in rows:
                cells = table.row()
                for text in row:
                    cells.cell(text)


def pdf(document: Document) -> bytes:
    """The PDF. Raises nothing of its own: what the fonts do not have is a box."""
    text = canonical(document)
    document = with_sides(document)
    title = label(document)
    sheets = _Sheets(f"{title}, tenant {document['tenant']}, {document['month']}. SHA-256 {sha256(text)}")
    _describe(sheets, document, title)
    _head(sheets, document, title)
    _total(sheets, document)
    if document["lines"]:
        if document["kind"] != "credit note":
            _bars(sheets, document)
        _lines(sheets, document)
    else:
        sheets.write_in("Nothing was used.")
    sheets.ln(4)
    sheets.write_in(how(document), size=7, colour=SOFT)
    if document["number"] is not None:
        name = f"{document['kind'].replace(' ', '-')}-{document['number']}.json"
        sheets.embed_file(bytes=text.encode(), basename=name, mime_type="application/json", desc=title)
    return bytes(sheets.output())


def _describe(sheets: _Sheets, document: Document, title: str) -> None:
    sheets.set_title(f"{title}: {document['tenant']}, {document['month']}")
    sheets.set_author(document["seller"]["name"] or f"site {document['site']}")
    sheets.set_subject(f"{document['payable']} {document['currency']}, {document['month']}")
    sheets.set_keywords(f"{document['kind']}, {document['tenant']}, {document['month']}, {document['site']}")
    sheets.set_creator("vdc")
    sheets.set_lang("en")
    # Not now: the same document is the same PDF.
    sheets.set_creation_date(datetime.fromisoformat(document.get("issued_at") or document["charged_until"]))


def _head(sheets: _Sheets, document: Document, title: str) -> None:
    half = sheets.epw / 2
    top = sheets.get_y()
    seller = document["seller"]
    sheets.write_in(seller["name"] or "Virtual datacenter", size=10, bold=True, width=half)
    sheets.write_in(_address(seller), size=8, colour=SOFT, width=half)
    below = sheets.get_y()
    sheets.set_xy(MARGIN_MM + half, top)
    sheets.write_in(title, size=18, bold=True, width=half, align="R")
    sheets.set_x(MARGIN_MM + half)
    sheets.write_in("\n".join(_about(document)), size=8, colour=SOFT, width=half, align="R")
    sheets.set_y(max(below, sheets.get_y()) + 6)
    customer = document["customer"]
    sheets.write_in("To", size=7, colour=SOFT)
    sheets.write_in(customer["name"], size=10, bold=True)
    sheets.write_in(_address(customer), size=8)
    sheets.ln(4)
    if document["kind"] == "preview":
        until = _instant(document["charged_until"])
        sheets.write_in(
            f"Not a bill. What was used until {until}; it has no number and may change.", bold=True
        )
    if document["kind"] == "credit note":
        sheets.write_in(f"Given back of bill {document['bill']}: {document['reason']}", bold=True)
    sheets.ln(2)


def _address(party: Mapping[str, str]) -> str:
    tax_id = f"Tax number {party['tax_id']}" if party["tax_id"] else ""
    return "\n".join(part for part in (party["address"], tax_id) if part)


def _about(document: Document) -> list[str]:
    said = [f"Tenant {document['tenant']}, month {document['month']}"]
    if document["kind"] == "credit note":
        said.append(f"Of bill {document['bill']}, SHA-256 {document['bill_sha256'][:16]}...")
    else:
        said.append(f"{_instant(document['from'])} to {_instant(document['to'])}")
        said.append(f"{document['hours']} hours, {document['time_zone']}")
    if document.get("issued_at"):
        said.append(f"Issued {datetime.fromisoformat(document['issued_at']):%d %B %Y %H:%M} UTC")
    return said


def _instant(text: str) -> str:
    """The offset matters on the day on which the clocks change."""
    return f"{datetime.fromisoformat(text):%d %b %H:%M:%S %z}"


def _money(text: str | Decimal) -> str:
    return f"{Decimal(text):,.2f}"


def _total(sheets: _Sheets, document: Document) -> None:
    """What it comes to, by what was used."""
    currency = document["currency"]
    rows = [["What", currency], *([what, _money(total)] for what, total in by_what(document).items())]
    if tax := document["tax"]:
        rows.append(["Total without tax", _money(document["total"])])
        rows.append([f"{tax['name']} {tax['percent']}%", _money(tax["amount"])])
    sheets.rows(rows, (130, 48), 1, head=True)
    words = {"credit note": "Given back", "preview": "Until now"}.get(document["kind"], "To pay")
    sheets.ln(1)
    sheets.write_in(f"{words}: {_money(document['payable'])} {currency}", size=14, bold=True, align="R")
    if not tax:
        sheets.write_in("without tax", size=7, colour=SOFT, align="R")
    sheets.ln(3)


def _bars(sheets: _Sheets, document: Document) -> None:
    """Cost of each day, as on the page."""
    cost = {what: days for what, days in per_day(document).items() if any(days)}
    if not cost:
        return
    days = len(next(iter(cost.values())))
    highest = max(sum(max(values[n], 0.0) for values in cost.values()) for n in range(days))
    sheets.write_in(
        f"Cost of each day; the highest is {highest:,.2f} {document['currency']}", size=9, bold=True
    )
    sheets.ln(1)
    bottom, step = sheets.get_y() + BARS_MM, sheets.epw / days
    for n in range(days):
        y = bottom
        for what, values in cost.items():
            height = BARS_MM * max(values[n], 0.0) / highest if highest else 0.0
            y -= height
            sheets.set_fill_color(COLOURS[what])
            sheets.rect(MARGIN_MM + n * step + 0.1 * step, y, 0.8 * step, height, style="F")
    sheets.line(MARGIN_MM, bottom, MARGIN_MM + sheets.epw, bottom)
    sheets.set_font(FONT, "", 6.5)
    sheets.set_text_color(*SOFT)
    for n in [n for n in range(1, days + 1) if n == 1 or n % 5 == 0]:
        sheets.set_xy(MARGIN_MM + (n - 1) * step, bottom + 0.5)
        sheets.cell(step, 3, str(n), align="C")
    sheets.set_xy(MARGIN_MM, bottom + 5)
    for what in cost:
        sheets.set_fill_color(COLOURS[what])
        sheets.rect(sheets.get_x(), sheets.get_y() + 0.6, 2.4, 2.4, style="F")
        sheets.set_x(sheets.get_x() + 3.2)
        sheets.cell(sheets.get_string_width(what) + 6, 3.6, what)
    sheets.ln(8)


def _lines(sheets: _Sheets, document: Document) -> None:
    """What, when, how much: a table for each machine."""
    credit = document["kind"] == "credit note"
    head = _CREDIT_HEAD if credit else _BILL_HEAD
    for name, vm_id, lines, total in by_machine(document):
        if sheets.will_page_break(6 * ROW_MM):
            sheets.add_page()
        sheets.ln(2)
        sheets.write_in(name, size=9, bold=True, width=sheets.epw - 40, end=False)
        sheets.write_in(f"{_money(total)} {document['currency']}", size=9, bold=True, width=40, align="R")
        if vm_id:
            sheets.write_in(vm_id, size=6.5, colour=SOFT)
        rows = [_credit_row(line) if credit else _bill_row(line) for line in lines]
        sheets.rows(
            [head, *rows], (8, 22, 36, 36, 15, 18, 29, 14)[: len(head)], 2 if credit else 4, head=True
        )


_BILL_HEAD = ("", "What", "From", "To", "Hours", "Quantity", "Price", "Amount")
_CREDIT_HEAD = ("", "What", "From", "To", "Billed", "Back")


def _bill_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    quantity = f"{Decimal(line['quantity']).quantize(Decimal('0.0001')).normalize():f} {line['unit']}"
    hours = f"{Decimal(line['hours']):,.2f}"
    return (
        str(line["line"]),
        line["what"],
        _instant(line["from"]),
        _instant(line["to"]),
        hours,
        quantity,
        f"{line['unit_price']} / {line['per']}",
        _money(line["amount"]),
    )


def _credit_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    edges = (_instant(line["from"]), _instant(line["to"]))
    return (str(line["line"]), line["what"], *edges, _money(line["billed"]), _money(line["amount"]))
