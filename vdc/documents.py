"""Documents that are issued: their canonical form, and the checksum that is kept of it.

A document holds text, whole numbers, lists and objects with ASCII keys. Of such, this is the JSON
Canonicalization Scheme (RFC 8785): keys in order, no spaces. So the checksum is the document's, however it
was indented meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a bill, as it is to be printed. Empty where nothing was said."""

    name: str = ""
    address: str = ""
    tax_id: str = ""


def canonical(document: Mapping[str, Any]) -> str:
    """The document's one form."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256(text: str) -> str:
    """Of the text in UTF-8, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def label(document: Mapping[str, Any]) -> str:
    """`Bill 17`, `Credit note 3`, `Preview`."""
    kind = str(document["kind"]).capitalize()
    return kind if document["number"] is None else f"{kind} {document['number']}"
