"""A simulated datacenter for each test of flows, and processes that work on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.engine import Engine
from tests.flows.processes import Processes, processes
from tests.flows.site import Site, settings

LEASE_S = 2.0
"""Of operations in tests: what a test waits for before a silent process may be taken for dead."""


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    """Two simulated hosts and an SQLite inventory, which the flows of this process work on."""
    with Site.copied() as made, settings(database_url=made.url, operation_lease_s=LEASE_S):
        yield made


@pytest.fixture
def start(site: Site, engine: Engine) -> Iterator[Processes]:
    """Starts processes that work on `site`, with the same engine."""
    env = {"VDC_DATABASE_URL": site.url, "VDC_OPERATION_LEASE_S": str(LEASE_S)}
    with processes(env, engine) as made:
        yield made
