"""Flows that ran once, in the server that test processes are forked from (tests/flows/processes.py).

What they did for the first time (SQLAlchemy's mappers and statements, pydantic's models) took a third of a
second, and each fork of a process that had not done it would do it anew.
"""

from __future__ import annotations

import gc

from tests.flows import run
from tests.flows.engine import running_on
from tests.flows.site import Site, settings


def _run() -> None:
    # Whoever starts the server: nobody is logged in.
    nobody = {"token": "", "actor": ""}
    with Site.copied() as site, settings(database_url=site.url, **nobody), running_on("simulated"):
        run.deploy(count=2, name="web")
        run.snapshot("web-1", "one")
        run.delete_snapshot("web-1", "one")
        run.migrate("web-1")
        run.power("stop", "web-1", hard=True)
        run.reconcile()
        run.terminate("web-1", "web-2")


_run()
# All that is there stays, and a fork that does not look through it need not copy it either.
gc.collect()
gc.freeze()
