"""`VmSpec` as JSON, for the inventory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from vdc.model import VmSpec


@lru_cache(maxsize=1)
def _adapter() -> TypeAdapter[VmSpec]:
    return TypeAdapter(VmSpec)


def dump(spec: VmSpec) -> dict[str, Any]:
    """Plain JSON values."""
    values: dict[str, Any] = _adapter().dump_python(spec, mode="json")
    return values


def load(values: dict[str, Any]) -> VmSpec:
    """The inverse of `dump`. Raises pydantic's ValidationError where a row was damaged."""
    return _adapter().validate_python(values)
