"""A bill in files: JSON to the byte as issued, CSV for a spreadsheet, a page for people."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from reports.page import page
from vdc.errors import Invalid

COLUMNS = ("number", "tenant", "month", "machine", "vm_id", "what", "from", "to", "hours", "quantity", "unit",
           "unit_price", "per", "amount", "currency")  # fmt: skip


def to_csv(document: dict[str, Any]) -> str:
    """A row a line; no row for the total, so that a column can be summed."""
    same = {key: document[key] for key in ("number", "tenant", "month", "currency")}
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(same | line for line in document["lines"])
    return out.getvalue()


def to_json(document: dict[str, Any]) -> str:
    """As vdc.billing writes what it issues."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def file_name(document: dict[str, Any]) -> str:
    """`bill-17-acme-2026-10` or `preview-acme-2026-11`."""
    kind = "preview" if document["number"] is None else f"bill-{document['number']}"
    return f"{kind}-{document['tenant']}-{document['month']}"


def write(document: dict[str, Any], directory: Path, text: str = "") -> list[Path]:
    """Write all forms; `text` is the JSON where it was issued. Returns the files. Raises Invalid."""
    forms = {".json": text or to_json(document), ".csv": to_csv(document), ".html": page(document)}
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
