"""The flow that makes the administrator's reports: files, and an artifact each."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.control import health
from tests.flows import run
from tests.flows.site import Site, settings
from vdc.settings import Settings

pytestmark = pytest.mark.prefect


def test_pages_and_artifacts(site: Site, prefect_client: Settings, tmp_path: Path) -> None:
    run.deploy(name="web", count=2)
    before = site.rows()
    with settings(home=tmp_path / "home"):
        files = [Path(file) for file in run.report()]
    assert site.rows() == before, "reports only read"
    pages = {file.stem for file in files if file.suffix == ".html"}
    assert {"capacity", "tenants", "unused", "operations"} <= pages
    assert all(file.read_text() for file in files)
    assert {file.parent.parent for file in files} == {tmp_path / "home" / "reports"}
    ask = {"artifacts": {"key": {"any_": ["report-capacity", "report-operations"]}}}
    shown = {a["key"]: a for a in health.call(prefect_client, "/artifacts/filter", ask)}
    assert "not enough history: 1 days of 14" in shown["report-capacity"]["description"]
    assert "| h1 | True | 1 |" in shown["report-capacity"]["data"]
    assert "| deploy | 3 | 3 | 0 | 100.0 |" in shown["report-operations"]["data"]
