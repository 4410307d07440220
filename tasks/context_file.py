"""A context's file on the control machine."""

from __future__ import annotations

from typing import Any

from tasks.tenant_file import read_text
from vdc.context import read_context
from vdc.errors import Invalid


def read_context_file(file: str, what: str) -> dict[str, Any]:
    """A level of context (YAML), as of vdc.context.read_context; no file: an empty one. Raises Invalid."""
    if not file:
        return {}
    import yaml

    try:
        values = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise Invalid(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise Invalid(f"{file} is nested too deep.") from error
    return read_context(values, what)
