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
    except yaml.MarkedYAMLError as error:
        # Without the lines around it: they may be anything, also of a file that was not meant.
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise Invalid(f"{file} is not YAML: {error.problem}{where}.") from None
    except yaml.YAMLError as error:
        raise Invalid(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    except RecursionError as error:
        raise Invalid(f"{file} is nested too deep.") from error
    return read_context(values, what)
