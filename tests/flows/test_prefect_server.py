"""What the server gives to flows: a UI that works, what is made in it, and logs kept with the run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.control import health, prefect_objects
from tests.prefect_fixture import free_port
from vdc.errors import Unready
from vdc.settings import Settings

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(600)]

FLOW = """
import logging
from interfaces.cli.engine import use_prefect
use_prefect()
from prefect import flow, task

@task
def clone():
    logging.getLogger("drivers.datastore").info("cloned %s", "disk0")

@flow
def deploy():
    clone.submit().result()
    return 7

assert deploy() == 7
"""


def test_the_ui_calls_the_server_that_serves_it(prefect_server: Settings) -> None:
    base = f"http://127.0.0.1:{prefect_server.prefect_port}"
    with urllib.request.urlopen(f"{base}/ui-settings", timeout=30) as response:
        assert json.load(response)["api_url"] == f"{base}/api"
    with urllib.request.urlopen(base, timeout=30) as response:
        assert "<html" in response.read().decode().lower()


def test_work_pool_and_automation_are_made_once(prefect_server: Settings) -> None:
    assert prefect_objects.ensure_objects(prefect_server) is False
    pool = health.call(prefect_server, f"/work_pools/{prefect_objects.WORK_POOL}")
    assert pool["type"] == "process"
    assert pool["base_job_template"]
    found = health.call(prefect_server, "/automations/filter", {})
    assert [automation["name"] for automation in found] == [prefect_objects.CRASH_AUTOMATION]
    assert found[0]["trigger"]["within"] == prefect_objects.SILENCE_S


def test_what_a_driver_logs_is_kept_with_the_run_and_the_terminal_is_quiet(prefect_server: Settings) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FLOW], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    # Logs are sent in the background and written later than the flow ends.
    newest = {"sort": "TIMESTAMP_DESC"}
    deadline = time.monotonic() + 30
    while True:
        messages = [log["message"] for log in health.call(prefect_server, "/logs/filter", newest)]
        if "cloned disk0" in messages:
            break
        assert time.monotonic() < deadline, messages
        time.sleep(0.2)


def test_the_check_for_a_server_costs_nothing(prefect_server: Settings) -> None:
    seen = []
    for _ in range(20):
        begun = time.monotonic()
        health.require_server(prefect_server)
        seen.append(time.monotonic() - begun)
    assert min(seen) < 0.1


def test_no_server_is_refused_with_what_to_type(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, prefect_port=free_port())
    with pytest.raises(Unready, match=r"No Prefect server answers at http://127.*start .* with `vdc up`"):
        health.require_server(settings)
    with pytest.raises(Unready, match="prefect_api_url"):
        health.require_server(replace(settings, prefect_api_url=settings.api_url))


def test_a_prefect_server_of_somebody_else_on_our_port_is_not_ours(
    prefect_server: Settings, tmp_path: Path
) -> None:
    with pytest.raises(Unready, match="vdc up"):
        health.require_server(replace(prefect_server, home=tmp_path))
    # Named outright, it is the operator's choice.
    health.require_server(replace(prefect_server, home=tmp_path, prefect_api_url=prefect_server.api_url))
