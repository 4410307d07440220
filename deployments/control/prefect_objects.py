"""What the datacenter keeps in Prefect: work pool, deployments, an automation that notices dead flow runs.

Run as a program (`python -m deployments.control.prefect_objects`): importing Prefect takes longer than a
second `vdc up` may, so `ensure_objects` asks over HTTP first and starts it only where something is missing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from deployments import catalogue
from deployments.catalogue import WORK_POOL
from deployments.control.health import call
from deployments.control.prefect_env import HEARTBEAT_S, client_env, collect_garbage_rarely
from vdc.errors import DriverFailure
from vdc.settings import CHECKOUT, Settings

if TYPE_CHECKING:
    from prefect.automations import AutomationCore
    from prefect.client.orchestration import SyncPrefectClient

CRASH_AUTOMATION = "vdc: crash flow runs without heartbeat"
SILENCE_S = 2 * HEARTBEAT_S
"""One lost heartbeat is none."""


def objects_present(settings: Settings) -> bool:
    """Whether all of them are there, as this checkout has them, without importing Prefect."""
    try:
        call(settings, f"/work_pools/{WORK_POOL}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        return False
    found = call(settings, "/automations/filter", {"automations": {"name": {"any_": [CRASH_AUTOMATION]}}})
    ours = call(settings, "/deployments/filter", {"deployments": {"tags": {"all_": [catalogue.TAG]}}})
    seen = {deployment["name"]: deployment["version"] for deployment in ours}
    return bool(found) and seen == {row.flow: catalogue.version() for row in catalogue.CATALOGUE}


def ensure_objects(settings: Settings) -> bool:
    """Make what is missing. True where this call made something."""
    if objects_present(settings):
        return False
    done = subprocess.run(
        [sys.executable, "-m", "deployments.control.prefect_objects"],
        # The settings reach it as Prefect's variables: it reads none of ours.
        env={**os.environ, **client_env(settings)},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        raise DriverFailure(
            f"The Prefect server at {settings.api_url} did not take work pool and deployments: {last[0]}",
            command="prefect_objects",
            stderr=done.stderr,
        )
    return True


def _crash_automation() -> AutomationCore:
    """Crash a flow run whose process is gone: a heartbeat was seen, then neither another nor an end.

    A live worker notices at once that its run's process died; this is for runs whose worker died too, and
    for those of the command line, which have none.
    """
    from prefect.automations import AutomationCore
    from prefect.client.schemas.objects import StateType
    from prefect.events import ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification

    ends = ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed", "Paused", "Suspended")
    return AutomationCore(
        name=CRASH_AUTOMATION,
        description=f"Made by `vdc up`: no heartbeat for {SILENCE_S} s means that the process is gone.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{end}" for end in ends)},
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"No heartbeat for {SILENCE_S} s: the process that ran this flow is gone.",
                force=False,
            )
        ],
    )


def _job_template() -> dict[str, Any]:
    """Prefect's for processes, with our engine: run in the directory of the worker, which is its checkout."""
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    variables = template["variables"]["properties"]
    variables["command"]["default"] = "python -m deployments.control.engine"
    variables["working_dir"]["default"] = "."
    return template


def _apply_work_pool(client: SyncPrefectClient) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    what: dict[str, Any] = {
        "description": "Flow runs started from the Prefect UI or by schedule.",
        "base_job_template": _job_template(),
    }
    try:
        client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", **what))
    except ObjectAlreadyExists:
        client.update_work_pool(WORK_POOL, WorkPoolUpdate(**what))


def main() -> None:
    collect_garbage_rarely()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        _apply_work_pool(client)
        if not client.read_automations_by_name(CRASH_AUTOMATION):
            client.create_automation(_crash_automation())
        catalogue.apply(client)


if __name__ == "__main__":
    main()
