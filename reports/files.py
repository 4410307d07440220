"""A bill or a credit note in files: JSON to the byte as issued, CSV for a spreadsheet, a page for people."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from reports.page import page
from vdc.documents import Document
from vdc.errors import Invalid

LINE = "line machine vm_id what from to"
BILL_COLUMNS = f"number tenant month {LINE} hours quantity unit unit_price per amount currency".split()
CREDIT_COLUMNS = f"number bill tenant month {LINE} billed amount currency reason".split()


def to_csv(document: Document) -> str:
    """A row a line; no row for the total, so that a column can be summed."""
    credit = document["kind"] == "credit note"
    columns = CREDIT_COLUMNS if credit else BILL_COLUMNS
    same = {key: document[key] for key in columns if key in document}
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(same | {"line": n} | line for n, line in enumerate(document["lines"], 1))
    return out.getvalue()


def to_json(document: Document) -> str:
    """To read; what is issued has its own form (vdc/documents.py)."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def file_name(document: Document) -> str:
    """`bill-17-acme-2026-10`, `credit-note-3-acme-2026-10` or `preview-acme-2026-11`."""
    number = "" if document["number"] is None else f"-{document['number']}"
    return f"{document['kind'].replace(' ', '-')}{number}-{document['tenant']}-{document['month']}"


def write(document: Document, directory: Path, text: str = "") -> list[Path]:
    """Write all forms; `text` is the JSON where it was issued. Returns the files. Raises Invalid."""
    forms = {".json": text or to_json(document), ".csv": to_csv(document)}
    if document["kind"] != "credit note":
        forms[".html"] = page(document)
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for ending, content in forms.items():
            file = directory / f"{file_name(document)}{ending}"
            file.write_text(content, newline="")
            written.append(file)
    except OSError as error:
        raise Invalid(f"The bill cannot be written to {directory}: {error}.") from error
    return written
