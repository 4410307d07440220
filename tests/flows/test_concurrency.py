"""Many who want the same at the same time: deployments by several processes, on both kinds of inventory."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from drivers.simulated import host_facts
from tests.flows import run
from tests.flows.engine import Engine
from tests.flows.processes import Processes, processes
from tests.flows.site import ACTOR, Site, settings
from vdc import catalog
from vdc.claims.deploy import claim_deploy
from vdc.errors import QuotaExceeded, Refused
from vdc.inventory import write_session
from vdc.pricing import ListPrices
from vdc.requests import DeployRequest
from vdc.schema import Operation
from vdc.states import VmState

QUOTA = 20


@pytest.fixture
def busy(engine: Engine, tmp_path: Path, inventory_url: str) -> Iterator[Site]:
    """Room for 60 machines on six hosts of ten, and 62 addresses; tenant `small` may have twenty."""
    hosts = [host_facts(f"h{n}", vcpu=10, memory_mib=2304) for n in range(6)]
    site = Site.create(tmp_path, inventory_url, hosts, cidr="10.9.0.0/26", reserved_memory_mib=1024)
    with write_session(site.url) as session:
        catalog.create_tenant(session, "small", max_vms=QUOTA, actor=ACTOR)
        catalog.create_tenant(session, "large", actor=ACTOR)
    with settings(database_url=site.url):
        yield site


@pytest.fixture
def several(busy: Site, engine: Engine) -> Iterator[Processes]:
    with processes({"VDC_DATABASE_URL": busy.url}, engine) as made:
        yield made


def _deploy_some(count: int, requests: list[Mapping[str, Any]]) -> list[str]:
    """Deploy in `count` threads; what became of each: `done`, or the name of its refusal."""
    outcomes: list[str] = []
    waiting = list(requests)

    def work() -> None:
        while True:
            try:
                request = waiting.pop()
            except IndexError:
                return
            try:
                run.deploy(**request)
                outcomes.append("done")
            except Exception as error:  # noqa: BLE001 - the test says which there may be
                outcomes.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize(
    "inventory_url",
    [
        pytest.param("sqlite", marks=pytest.mark.prefect),
        pytest.param("postgresql", marks=pytest.mark.postgres),
    ],
    indirect=True,
)
def test_sixty_deployments_by_six_processes(busy: Site, several: Processes) -> None:
    """Two tenants ask for thirty each; the small one may have twenty, the large one gets all it asks for.

    Prefect's own database is the same whatever the inventory's is: once it is under this load too.
    """
    asked = [
        [{"tenant": ("small", "large")[n % 2], "name": f"p{p}-{n}"} for n in range(10)] for p in range(6)
    ]
    children = [several.start(_deploy_some, 1, requests) for requests in asked]
    outcomes = [outcome for child in children for outcome in child.answer(150).value]
    assert len(outcomes) == 60, "none is lost"
    refused = [o for o in outcomes if o != "done"]
    assert len(refused) == 30 - QUOTA
    for sentence in refused:
        assert sentence == (
            "QuotaExceeded: Tenant small would pass its quota: 20 of 20 machines used, 1 more asked."
        )
    assert (busy.use("small").vms, busy.use("large").vms) == (QUOTA, 30)
    assert Counter(busy.machines().values()) == {VmState.RUNNING: QUOTA + 30}
    assert len(busy.leases()) == 2 * (QUOTA + 30)
    busy.assert_agrees()


def _claim_many(url: str, tenant: str, count: int, barrier: Any = None) -> Counter[str]:
    """Claims alone, as fast as they go: no host is asked."""
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        try:
            with write_session(url) as session:
                claim_deploy(
                    session,
                    DeployRequest(template="tiny", tenant=tenant),
                    actor=ACTOR,
                    prices=ListPrices(),
                )
            outcomes["done"] += 1
        except Refused as error:
            outcomes[type(error).__name__] += 1
    return outcomes


def test_more_claims_than_there_is_room(busy: Site, several: Processes) -> None:
    """104 claims by eight processes want 60 places: quota and hosts give out exactly what they have."""
    tenants = ("small", "large") * 4
    children = [(tenant, several.start(_claim_many, busy.url, tenant, 13)) for tenant in tenants]
    small, large = (
        sum((child.answer(120).value for tenant, child in children if tenant == wanted), Counter())
        for wanted in ("small", "large")
    )
    assert small["done"] + large["done"] == 60, "every place is taken, none twice"
    assert small["done"] <= QUOTA
    assert small.total() + large.total() == 104
    assert set(small) <= {"done", "QuotaExceeded", "NoCapacity"}
    assert set(large) <= {"done", "NoCapacity"}
    assert set(busy.load().values()) == {(10, 10, 1280)}
    busy.assert_sound()
    assert busy.count(Operation) - 60 * 2 == _audited(busy), "a refusal opens no operation"


def test_eight_processes_for_one_tenant(busy: Site, several: Processes) -> None:
    """Each asks four times for a machine, all at once: twenty are given, neither more nor less."""
    children = [several.start(_claim_many, busy.url, "small", 4) for _ in range(8)]
    outcomes = sum((child.answer(120).value for child in children), Counter())
    assert outcomes == {"done": QUOTA, QuotaExceeded.__name__: 32 - QUOTA}
    assert busy.use("small").vms == QUOTA
    busy.assert_sound()


def _audited(site: Site) -> int:
    """Operations of what was written down before: hosts, networks and so on."""
    return sum("'kind': 'deploy'" not in row for row in site.rows()["operations"])


def test_threads_of_one_process(busy: Site) -> None:
    results: list[Counter[str]] = []
    threads = [
        threading.Thread(target=lambda: results.append(_claim_many(busy.url, "small", 6))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results, Counter()) == {"done": QUOTA, QuotaExceeded.__name__: 36 - QUOTA}
    busy.assert_sound()
