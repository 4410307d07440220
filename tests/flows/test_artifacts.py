"""What flow runs show of themselves: kept with the run, never in its way."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytest

from deployments.control import health
from vdc.settings import Settings

pytestmark = pytest.mark.prefect


def _shown(settings: Settings, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = health.call(
        settings, "/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}}
    )
    return found


def test_kept_with_the_flow_run(prefect_client: Settings) -> None:
    from prefect import flow
    from prefect.runtime import flow_run

    from tasks.artifacts import publish

    @flow
    def probe() -> str:
        publish("kept-result", "2 machines done.", "- web-1")
        return str(flow_run.get_id())

    run_id = probe()
    (seen,) = _shown(prefect_client, "kept-result")
    assert seen["flow_run_id"] == run_id
    assert (seen["type"], seen["description"], seen["data"]) == ("markdown", "2 machines done.", "- web-1")


def test_without_a_flow_run_nothing_is_done(prefect_client: Settings) -> None:
    from tasks.artifacts import publish

    publish("nowhere-result", "Nobody looks.")
    assert _shown(prefect_client, "nowhere-result") == []


@pytest.mark.parametrize("trouble", ["refused", "silent"])
def test_a_flow_goes_on_where_prefect_does_not_take_it(
    prefect_client: Settings, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import httpx
    from prefect import flow

    from tasks import artifacts

    asked = []

    def send(client: httpx.Client, request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if trouble == "silent":
            raise httpx.ReadTimeout("timed out", request=request)
        return httpx.Response(503, request=request)

    @flow
    def probe() -> int:
        monkeypatch.setattr(artifacts.httpx.Client, "send", send)
        try:
            artifacts.publish("refused-result", "It goes on.")
        finally:
            monkeypatch.undo()
        return 7

    begun = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="tasks.artifacts"):
        assert probe() == 7
    # Asked once: Prefect's own way would take a minute.
    assert [path.rstrip("/") for path in asked] == ["/api/artifacts"]
    assert time.monotonic() - begun < 10
    assert "Prefect did not take artifact refused-result" in caplog.text


def test_a_table_takes_text_literally_and_ends_somewhere(prefect_client: Settings) -> None:
    from tasks.artifacts import MAX_ROWS, table

    rows = [{"Machine": f"web-{n}", "Error": "a|b\n<i>c</i>"} for n in range(MAX_ROWS + 5)]
    lines = table(rows, more="`vdc vm list`").splitlines()
    assert lines[:3] == ["| Machine | Error |", "| --- | --- |", r"| web-0 | a\|b \<i>c\</i> |"]
    assert lines[-1] == "... and 5 more: `vdc vm list`."
    assert len(lines) == 2 + MAX_ROWS + 2
    assert table([]) == ""
