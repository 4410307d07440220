"""One flow run of a worker: Prefect's own engine, with our settings, loggers and actor.

The work pool's command. The worker gives the flow run's id in the environment.
"""

from __future__ import annotations

import os
import runpy
from uuid import UUID

from deployments.control import prefect_env
from vdc.access import PREFECT_UI, SCHEDULE
from vdc.identity import AS_USER
from vdc.settings import load


def main() -> None:
    settings = load()
    prefect_env.apply(settings)
    os.environ.pop("VDC_TOKEN", None)  # whose the worker's is has nothing to do with who asked
    os.environ["VDC_ACTOR"] = _actor(UUID(os.environ["PREFECT__FLOW_RUN_ID"]), settings.prefect_ui_user)
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


def _actor(flow_run_id: UUID, ui_user: str) -> str:
    """Who asked: not from a parameter or a variable of the run, as both can be typed into a form."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        run = client.read_flow_run(flow_run_id)
    if run.auto_scheduled:
        return SCHEDULE
    return f"{AS_USER}{ui_user}" if ui_user else PREFECT_UI


if __name__ == "__main__":
    main()
