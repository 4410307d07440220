"""All flows as Prefect deployments: one row each. `vdc up` applies it (deployments/control/prefect_objects).

A deployment says only where the flow is in the code. Settings, secrets among them, are not kept in Prefect: a
flow run has those of the worker that runs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vdc.settings import CHECKOUT

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

WORK_POOL = "vdc"
TAG = "vdc"
"""Deployments with this tag are ours; others in the work pool are left alone."""


@dataclass(frozen=True, slots=True)
class Row:
    flow: str
    """Name of the flow, and of its deployment."""
    entrypoint: str
    cron: str = ""
    """When it is due, in UTC; empty: only when asked for."""
    single: bool = False
    """At most one run at a time; another one is cancelled at once, as it would find nothing left to do."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Of the scheduled runs; whoever fills the form gives others."""


CATALOGUE = (
    Row("deploy", "flows.deploy.deploy"),
    Row("terminate", "flows.terminate.terminate"),
    Row("power", "flows.power.power"),
    Row("release", "flows.release.release"),
    Row("scale-test", "flows.scale_test.scale_test"),
    Row("snapshot", "flows.snapshot.snapshot"),
    Row("revert", "flows.snapshot.revert"),
    Row("delete-snapshot", "flows.snapshot.delete_snapshot"),
    Row("enroll-host", "flows.enroll_host.enroll_host"),
    Row("import-image", "flows.import_image.import_image"),
    Row("save-as", "flows.save_image.save_as"),
    Row("clone-image", "flows.save_image.clone_image"),
    Row("switch-image", "flows.switch_image.switch_image"),
    Row("delete-image", "flows.delete_image.delete_image"),
    Row("onboard-tenant", "flows.onboard_tenant.onboard_tenant"),
    Row("offboard-tenant", "flows.offboard_tenant.offboard_tenant"),
    Row("migrate", "flows.migrate.migrate"),
    Row("resize", "flows.resize.resize"),
    Row("attach-disk", "flows.attach.attach_disk"),
    Row("detach-disk", "flows.attach.detach_disk"),
    Row("attach-nic", "flows.attach.attach_nic"),
    Row("detach-nic", "flows.attach.detach_nic"),
    Row("assign-groups", "flows.security.assign_groups"),
    Row("change-group", "flows.security.change_group"),
    Row("create-router", "flows.router.create_router"),
    Row("forward-port", "flows.router.forward_port"),
    Row("tell-router", "flows.router.tell_router"),
    Row("redeploy-router", "flows.router.redeploy_router"),
    Row("delete-router", "flows.router.delete_router"),
    Row("remove-disk", "flows.attach.remove_disk"),
    Row("drain", "flows.drain.drain"),
    Row("verify", "flows.verify.verify"),
    Row("reconcile", "flows.reconcile.reconcile", cron="*/5 * * * *", single=True),
    # Not in the minutes of reconcile, which asks the same hosts.
    Row("meter", "flows.meter.meter", cron="2-59/5 * * * *", single=True),
    Row("sweep", "flows.meter.sweep", cron="40 2 * * *", single=True),
    Row("sweep-snapshots", "flows.sweep_snapshots.sweep_snapshots", cron="50 2 * * *", single=True),
    Row("watch-budgets", "flows.watch_budgets.watch_budgets", cron="21 * * * *", single=True),
    Row("report", "flows.report.report", cron="10 3 * * *", single=True),
    # A month ends last at UTC-12, at noon UTC.
    Row("bill", "flows.bill.bill", cron="15 12 1 * *", parameters={"request": {}}),
)


@lru_cache(maxsize=1)
def version() -> str:
    """Changes whenever what Prefect knows of the flows may have changed: names, forms, schedules."""
    files = [*(CHECKOUT / "flows").glob("*.py"), CHECKOUT / "vdc" / "requests.py"]
    files += [Path(__file__), CHECKOUT / "deployments" / "control" / "prefect_objects.py"]
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def apply(client: SyncPrefectClient) -> None:
    """Create or update every deployment; remove those of ours that are no longer in the catalogue."""
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG]))
    found = {d.name: d for d in client.read_deployments(deployment_filter=ours)}
    for row in CATALOGUE:
        before = found.pop(row.flow, None)
        # A schedule that the operator has switched off stays off.
        _apply(row, active=before is None or all(s.active for s in before.schedules))
    for gone in found.values():
        client.delete_deployment(gone.id)


def _schedules(row: Row, *, active: bool) -> list[Any]:
    from prefect.schedules import Cron

    if not row.cron:
        return []
    parameters = dict(row.parameters)
    return [Cron(row.cron, timezone="UTC", slug=row.flow, active=active, parameters=parameters)]


def _apply(row: Row, *, active: bool) -> None:
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.deployments.runner import RunnerDeployment

    options: dict[str, Any] = {}
    if row.single:
        options["concurrency_limit"] = ConcurrencyLimitConfig(
            limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
        )
    deployment = RunnerDeployment.from_entrypoint(
        row.entrypoint,
        name=row.flow,
        tags=[TAG],
        version=version(),
        schedules=_schedules(row, active=active),
        enforce_parameter_schema=True,
        work_pool_name=WORK_POOL,
        **options,
    )
    deployment.apply()
