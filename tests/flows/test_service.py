"""Flows in service: from the Prefect UI's API and from a schedule, through the worker, to machines."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import select

from deployments.catalogue import CATALOGUE
from deployments.control import health
from tests.flows.operator import Operator
from tests.flows.site import Site
from tests.prefect_fixture import give_database
from vdc.access import PREFECT_UI, SCHEDULE
from vdc.inventory import read_session
from vdc.schema import Operation, utc_now
from vdc.settings import Settings
from vdc.states import VmState

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(600)]

DEADLINE_S = 120.0
T = TypeVar("T")


class Service:
    """A control plane in service over simulated hosts, asked as the Prefect UI asks."""

    def __init__(self, home: Path) -> None:
        self.operator = Operator(home)
        # A new schedule is looked at by its server within seconds, or else in the next round.
        self.operator.env["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] = "3"
        self.site = Site.create(home, f"sqlite:///{home / 'inventory.db'}")
        self._settings = Settings(home=home, prefect_port=int(self.operator.env["VDC_PREFECT_PORT"]))
        give_database(self._settings)

    def call(self, path: str, body: Any = None) -> Any:
        return health.call(self._settings, path, body, timeout_s=30)

    def change(self, method: str, path: str, body: Any = None) -> None:
        request = urllib.request.Request(
            self._settings.api_url + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        urllib.request.urlopen(request, timeout=30).close()

    def switch_off(self, flow: str) -> None:
        """Its schedule, so that it does not come in between."""
        deployment = self.deployment(flow)
        for schedule in deployment["schedules"]:
            path = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
            self.change("PATCH", path, {"active": False})

    def deployment(self, flow: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call(f"/deployments/name/{flow}/{flow}")
        return found

    def press_run(self, flow: str, **request: Any) -> str:
        """What the form sends when Run is pressed; returns the flow run's id."""
        body = {
            "parameters": {"request": request},
            "state": {
                "type": "SCHEDULED",
                "name": "Scheduled",
                "message": "Run from the Prefect UI",
                "state_details": {"scheduled_time": utc_now().isoformat()},
            },
        }
        run: dict[str, Any] = self.call(f"/deployments/{self.deployment(flow)['id']}/create_flow_run", body)
        return str(run["id"])

    def run(self, flow_run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call(f"/flow_runs/{flow_run_id}")
        return found

    def runs(self, flow: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call(
            "/flow_runs/filter", {"deployments": {"name": {"any_": [flow]}}}
        )
        return found

    def ended(self, flow_run_id: str) -> dict[str, Any]:
        """The flow run, once it is over."""

        def over() -> dict[str, Any] | None:
            run = self.run(flow_run_id)
            return run if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return eventually(over)

    def artifacts(self, flow_run_id: str) -> dict[str, str]:
        """What is read of each, by key."""
        wanted = {"artifacts": {"flow_run_id": {"any_": [flow_run_id]}}}
        # What Prefect knows of a run's return value is an artifact too, without a key.
        found = [a for a in self.call("/artifacts/filter", wanted) if a["key"]]
        return {a["key"]: f"{a['description']}\n{a['data']}" for a in found}

    def log(self, flow_run_id: str) -> list[str]:
        wanted = {"logs": {"flow_run_id": {"any_": [flow_run_id]}}}
        return [entry["message"] for entry in self.call("/logs/filter", wanted)]

    def operation(self, flow_run_id: str) -> Operation:
        """What the flow run opened itself."""
        with read_session(self.site.url) as session:
            query = select(Operation).where(Operation.flow_run_id == flow_run_id)
            return session.scalars(query.where(Operation.parent_id.is_(None))).one()


def eventually(look: Callable[[], T | None]) -> T:
    """What `look` sees, once it sees something."""
    deadline = time.monotonic() + DEADLINE_S
    while (seen := look()) is None:
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.1)
    return seen


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"))
    try:
        made.operator.done("up")
        made.switch_off("reconcile")
        made.switch_off("meter")
        yield made
    finally:
        made.site.sim.clear()
        made.operator.done("down")


def test_every_flow_is_there_with_a_form_that_describes_itself(service: Service) -> None:
    for row in CATALOGUE:
        deployment = service.deployment(row.flow)
        assert [s["schedule"]["cron"] for s in deployment["schedules"]] == ([row.cron] if row.cron else [])
        assert deployment["description"]
        for model in deployment["parameter_openapi_schema"].get("definitions", {}).values():
            for name, field in model["properties"].items():
                assert field["description"], f"{row.flow}: {name}"
    form = service.deployment("deploy")["parameter_openapi_schema"]["definitions"]["DeployRequest"]
    assert form["properties"]["start"]["enum"] == ["running", "paused", "stopped"]
    assert form["properties"]["tenant"]["default"] == "default"
    assert form["required"] == ["template"]
    (automation,) = service.call("/automations/filter", {})
    assert automation["enabled"] is True


def test_a_deployment_from_the_form_is_carried_out_by_the_worker(service: Service) -> None:
    run_id = service.press_run("deploy", template="tiny", count=3, name="web")
    run = service.ended(run_id)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["name"] == "deploy 3 x tiny as web for default"
    assert service.site.machines() == dict.fromkeys(("web-1", "web-2", "web-3"), VmState.RUNNING)
    service.site.assert_agrees()
    operation = service.operation(run_id)
    assert (operation.requested_by, operation.outcome) == (PREFECT_UI, "done")
    told = service.artifacts(run_id)
    assert sorted(told) == ["deploy-plan", "deploy-result"]
    assert "EUR an hour" in told["deploy-plan"]
    assert "no limit" in told["deploy-plan"]
    for nic in service.site.spec("web-2").nics:
        assert nic.address in told["deploy-plan"]
    assert told["deploy-result"].count("| running |") == 3


def test_who_acts_cannot_be_typed_in(service: Service) -> None:
    with pytest.raises(urllib.error.HTTPError):
        service.press_run("terminate", vms=["web-3"], actor="root")
    run_id = service.press_run("terminate", vms=["web-3"])
    assert service.ended(run_id)["state_type"] == "COMPLETED"
    assert service.operation(run_id).requested_by == PREFECT_UI
    assert service.site.machines()["web-3"] == VmState.GONE


@pytest.mark.parametrize(
    "wrong",
    [{"count": 2}, {"template": "tiny", "count": "many"}, {"template": "tiny", "start": "flying"}],
    ids=["left out", "no number", "not in the list"],
)
def test_a_wrong_value_is_refused_by_the_form(service: Service, wrong: dict[str, Any]) -> None:
    before = (service.site.snapshot(), len(service.runs("deploy")))
    with pytest.raises(urllib.error.HTTPError) as refused:
        service.press_run("deploy", **wrong)
    assert refused.value.code in (409, 422)
    assert (service.site.snapshot(), len(service.runs("deploy"))) == before


def test_a_refused_request_ends_with_our_sentence(service: Service) -> None:
    before = service.site.snapshot()
    run_id = service.press_run("deploy", template="nope")
    run = service.ended(run_id)
    assert run["state_type"] == "FAILED"
    sentence = "There is no template 'nope'. Known: tiny."
    assert run["state"]["message"] == sentence
    log = eventually(lambda: said if sentence in (said := service.log(run_id)) else None)
    assert not [line for line in log if "Traceback" in line], log
    assert service.artifacts(run_id) == {}
    assert service.site.snapshot() == before


def test_a_schedule_fires(service: Service) -> None:
    """Bills of the last month as on the first of a month, with the parameters of the schedule itself."""
    deployment = service.deployment("bill")
    schedule = {
        "active": True,
        "schedule": {"interval": 8, "anchor_date": utc_now().isoformat()},
        "parameters": deployment["schedules"][0]["parameters"],
    }
    added = service.call(f"/deployments/{deployment['id']}/schedules", [schedule])

    def first() -> str | None:
        soon = (utc_now() + timedelta(hours=1)).isoformat()
        due = {r["expected_start_time"]: r["id"] for r in service.runs("bill")}
        return due[min(due)] if due and min(due) < soon else None

    try:
        run = service.ended(eventually(first))
    finally:
        service.change("DELETE", f"/deployments/{deployment['id']}/schedules/{added[0]['id']}")
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["auto_scheduled"] is True
    assert run["name"] == "bill last month"
    assert service.operation(run["id"]).requested_by == SCHEDULE
    assert sorted(service.artifacts(run["id"])) == ["bill-plan", "bill-result"]


def test_what_is_stopped_in_the_middle_is_finished_by_reconcile(service: Service) -> None:
    """`vdc down` while a machine is being made: afterwards inventory and hosts agree."""
    worker = json.loads(service.operator.done("status", "--json"))["worker"]["pid"]
    service.site.sim.hold("ensure_disk", deadline_s=DEADLINE_S)
    run_id = service.press_run("deploy", template="tiny", name="late")
    service.site.sim.wait_until_held(DEADLINE_S)
    with service.operator.begin("down") as down:
        # The worker stands still: its flow runs are being told to end.
        eventually(lambda: _stands_still(worker) or None)
        service.site.sim.release("ensure_disk")
        assert down.wait(DEADLINE_S) == 0
    assert service.site.machines()["late"] == VmState.DEPLOYING

    service.operator.done("up")
    assert service.run(run_id)["state_type"] == "CRASHED"
    assert service.operation(run_id).finished_at is None
    service.operator.done("reconcile")
    assert service.site.machines()["late"] == VmState.RUNNING
    assert service.operation(run_id).requested_by == PREFECT_UI
    service.site.assert_agrees()


def _stands_still(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
