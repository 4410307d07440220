"""The process that renders contexts, begun before a claim that needs it: a claim waits for nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tasks.batches import read
from vdc.claims.context import has_templates
from vdc.rendering import Renderer
from vdc.requests import DeployRequest


@contextmanager
def ready_renderer(request: DeployRequest, machine: Mapping[str, Any]) -> Iterator[Renderer | None]:
    """None where nothing has to be rendered. `machine`: the machines' own level of context."""
    if not read(has_templates, request, machine):
        yield None
        return
    with Renderer() as renderer:
        yield renderer
