"""A bill or a credit note in files: JSON to the byte as issued, CSV and Parquet, a page and a PDF."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from reports.page import page
from reports.pdf import pdf
from reports.printed import numbered
from vdc.documents import Document
from vdc.errors import Invalid

LINE = "line machine vm_id what from to"
BILL_COLUMNS = f"number tenant month {LINE} hours quantity unit unit_price per amount currency".split()
CREDIT_COLUMNS = f"number bill tenant month {LINE} billed amount currency reason".split()


def _rows(document: Document) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and a row a line."""
    columns = CREDIT_COLUMNS if document["kind"] == "credit note" else BILL_COLUMNS
    same = {key: document[key] for key in columns if key in document}
    return columns, [same | line for line in numbered(document)]


def to_csv(document: Document) -> str:
    """A row a line; no row for the total, so that a column can be summed."""
    columns, rows = _rows(document)
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def to_parquet(document: Document) -> bytes:
    """The CSV's columns with types, for analysis: amounts exact, instants in UTC, other numbers binary."""
    import pyarrow as pa
    from pyarrow import parquet

    columns, rows = _rows(document)
    out = io.BytesIO()
    parquet.write_table(pa.table({name: _typed(name, [row[name] for row in rows]) for name in columns}), out)
    return out.getvalue()


def _typed(name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    if name in ("from", "to"):
        return pa.array(map(datetime.fromisoformat, values), pa.timestamp("us", "UTC"))
    if name in ("amount", "billed"):
        return pa.array(map(Decimal, values), pa.decimal128(18, 2))
    if name in ("hours", "quantity", "unit_price"):
        return pa.array(map(float, values), pa.float64())
    if name in ("line", "number", "bill"):
        return pa.array(values, pa.int64())
    return pa.array(values, pa.string())


def to_json(document: Document) -> str:
    """To read; what is issued has its own form (vdc/documents.py)."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def file_name(document: Document) -> str:
    """`bill-17-acme-2026-10`, `credit-note-3-acme-2026-10` or `preview-acme-2026-11`."""
    number = "" if document["number"] is None else f"-{document['number']}"
    return f"{document['kind'].replace(' ', '-')}{number}-{document['tenant']}-{document['month']}"


def write(document: Document, directory: Path, text: str = "") -> list[Path]:
    """Write all forms; `text` is the JSON where it was issued. Returns the files. Raises Invalid."""
    forms: dict[str, bytes] = {
        ".json": (text or to_json(document)).encode(),
        ".csv": to_csv(document).encode(),
        ".parquet": to_parquet(document),
        ".html": page(document).encode(),
        ".pdf": pdf(document),
    }
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for ending, content in forms.items():
            file = directory / f"{file_name(document)}{ending}"
            file.write_bytes(content)
            written.append(file)
    except OSError as error:
        raise Invalid(f"The bill cannot be written to {directory}: {error}.") from error
    return written
