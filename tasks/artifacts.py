"""Artifacts: what a flow run shows of itself in the Prefect UI. One call for each, none per machine.

They are for whoever looks; nothing reads them. So they are never a reason to fail, nor to wait for long.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import httpx
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.context import FlowRunContext

log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MAX_ROWS = 200
"""Of a table: what is longer is looked up in the inventory."""


def publish(key: str, summary: str, *parts: str) -> None:
    """Keep `summary` and `parts` (markdown) with the flow run, under a key that is the same in every run.

    Without a flow run there is nothing to keep it with: then nothing is done.
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or not isinstance(context.client, SyncPrefectClient):
        return
    artifact = ArtifactCreate(
        key=key,
        type="markdown",
        description=summary,
        # The UI shows the description above the rest, and nothing above an empty rest.
        data="\n\n".join(part for part in parts if part) or summary,
        flow_run_id=context.flow_run.id,
    )
    body = artifact.model_dump(mode="json", exclude_unset=True)
    try:
        # As the parent of Prefect's HTTP client sends it: Prefect's would try again for a minute, while
        # machines wait; and to tell it not to, by its settings, costs 40 ms.
        client = context.client._client
        request = client.build_request("POST", "/artifacts/", json=body, timeout=TIMEOUT_S)
        httpx.Client.send(client, request).raise_for_status()
    except httpx.HTTPError as error:
        log.warning("Prefect did not take artifact %s: %s", key, str(error) or type(error).__name__)


def table(rows: Sequence[Mapping[str, object]], *, more: str = "") -> str:
    """A markdown table, headed by the keys of the first row. `more`: where to look up what is cut off."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [_line(columns), _line(["---"] * len(columns))]
    lines += [_line([row[column] for column in columns]) for row in rows[:MAX_ROWS]]
    if len(rows) > MAX_ROWS:
        lines += ["", f"... and {len(rows) - MAX_ROWS} more{f': {more}' if more else ''}."]
    return "\n".join(lines)


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_cell(line)}" for line in lines)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(value: object) -> str:
    """On one line, and taken literally: names and errors come from outside."""
    text = " ".join(("" if value is None else str(value)).split())
    for special in "\\`|<*_[":
        text = text.replace(special, f"\\{special}")
    return text
