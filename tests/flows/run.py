"""Flows by name: imported inside the functions, as Prefect must be configured first."""

from __future__ import annotations

from typing import Any

from vdc.billing import Issued
from vdc.budgets import Alert
from vdc.claims.snapshot_sweep import Swept
from vdc.metering import Metered
from vdc.reconciliation import Finding
from vdc.requests import (
    AssignGroupsRequest,
    AttachDiskRequest,
    AttachNicRequest,
    BillRequest,
    ChangeGroupRequest,
    CloneImageRequest,
    CreateRouterRequest,
    DeleteImageRequest,
    DeleteRouterRequest,
    DeleteSnapshotRequest,
    DeployRequest,
    DetachDiskRequest,
    DetachNicRequest,
    DrainRequest,
    EnrollHostRequest,
    ForwardPortRequest,
    ImportImageRequest,
    MachinesRequest,
    MigrateRequest,
    OffboardTenantRequest,
    OnboardTenantRequest,
    PowerRequest,
    RedeployRouterRequest,
    RemoveDiskRequest,
    ResizeRequest,
    RevertRequest,
    SaveAsRequest,
    ScaleTestRequest,
    SnapshotRequest,
    SwitchImageRequest,
    TellRouterRequest,
    TerminateRequest,
    VerifyRequest,
)


def deploy(**request: Any) -> str:
    from flows.deploy import deploy as flow

    return flow(DeployRequest(**({"template": "tiny"} | request)))


def onboard(file: str) -> Any:
    from flows.onboard_tenant import onboard_tenant as flow

    return flow(OnboardTenantRequest(file=file))


def offboard(tenant: str, export: str, **request: Any) -> Any:
    from flows.offboard_tenant import offboard_tenant as flow

    return flow(OffboardTenantRequest(tenant=tenant, export=export, with_machines=True, **request))


def terminate(*vms: str, tenant: str = "") -> str:
    from flows.terminate import terminate as flow

    return flow(TerminateRequest(vms=list(vms), tenant=tenant))


def migrate(vm: str, to: str = "", **tuning: Any) -> str:
    from flows.migrate import migrate as flow

    return flow(MigrateRequest(vm=vm, to=to, **tuning))


def drain(host: str, **request: Any) -> str:
    from flows.drain import drain as flow

    return flow(DrainRequest(host=host, **request))


def resize(vm: str, **sizes: int) -> str:
    from flows.resize import resize as flow

    return flow(ResizeRequest(vm=vm, **sizes))


def attach_disk(vm: str, **what: Any) -> str:
    from flows.attach import attach_disk as flow

    return flow(AttachDiskRequest(vm=vm, **what))


def detach_disk(vm: str, disk: str, *, keep: bool = False) -> str:
    from flows.attach import detach_disk as flow

    return flow(DetachDiskRequest(vm=vm, disk=disk, keep=keep))


def attach_nic(vm: str, vnet: str, address: str = "") -> str:
    from flows.attach import attach_nic as flow

    return flow(AttachNicRequest(vm=vm, vnet=vnet, address=address))


def detach_nic(vm: str, nic: str) -> str:
    from flows.attach import detach_nic as flow

    return flow(DetachNicRequest(vm=vm, nic=nic))


def assign_groups(verb: Any, group: str, *vms: str, tenant: str = "") -> str:
    from flows.security import assign_groups as flow

    return flow(AssignGroupsRequest(verb=verb, groups=[group], vms=list(vms), tenant=tenant))


def change_group(verb: Any, group: str, direction: Any, protocol: Any, **what: str) -> str:
    from flows.security import change_group as flow

    return flow(ChangeGroupRequest(verb=verb, group=group, direction=direction, protocol=protocol, **what))


def remove_disk(disk: str, tenant: str = "default") -> str:
    from flows.attach import remove_disk as flow

    return flow(RemoveDiskRequest(disk=disk, tenant=tenant))


def power(verb: str, *vms: str, **options: Any) -> str:
    from flows.power import power as flow

    return flow(PowerRequest(verb=verb, vms=list(vms), **options))


def release(*vms: str) -> str:
    from flows.release import release as flow

    return flow(MachinesRequest(vms=list(vms)))


def snapshot(vm: str, label: str = "", kind: Any = "auto", keep_days: int | None = None) -> str:
    from flows.snapshot import snapshot as flow

    return flow(SnapshotRequest(vm=vm, label=label, kind=kind, keep_days=keep_days))


def sweep_snapshots() -> list[Swept]:
    from flows.sweep_snapshots import sweep_snapshots as flow

    return flow()


def revert(vm: str, label: str) -> str:
    from flows.snapshot import revert as flow

    return flow(RevertRequest(vm=vm, label=label))


def delete_snapshot(vm: str, label: str) -> str:
    from flows.snapshot import delete_snapshot as flow

    return flow(DeleteSnapshotRequest(vm=vm, label=label))


def reconcile() -> list[Finding]:
    from flows.reconcile import reconcile as flow

    return flow()


def verify_problems() -> list[str]:
    from flows.verify import verify as flow

    return [
        f"{check.name}: {problem}" for check in flow(VerifyRequest()).checks for problem in check.problems
    ]


def import_image(**request: Any) -> str:
    from flows.import_image import import_image as flow

    return flow(ImportImageRequest(**request))


def delete_image(image: str) -> str:
    from flows.delete_image import delete_image as flow

    return flow(DeleteImageRequest(image=image))


def switch_image(image: str, persistent: bool) -> str:
    from flows.switch_image import switch_image as flow

    return flow(SwitchImageRequest(image=image, persistent=persistent))


def save_as(vm: str, image: str) -> str:
    from flows.save_image import save_as as flow

    return flow(SaveAsRequest(vm=vm, image=image))


def clone_image(image: str, name: str, tenant: str = "") -> str:
    from flows.save_image import clone_image as flow

    return flow(CloneImageRequest(image=image, name=name, tenant=tenant))


def enroll_host(**request: Any) -> str:
    from flows.enroll_host import enroll_host as flow

    return flow(EnrollHostRequest(**request))


def deploy_request(request: dict[str, Any]) -> str:
    """For processes: arguments that can be pickled."""
    return deploy(**request)


def bill(month: str, tenant: str = "", tariff: str = "") -> list[Issued]:
    from flows.bill import bill as flow

    return flow(BillRequest(month=month, tenant=tenant, tariff=tariff))


def report() -> list[str]:
    from flows.report import report as flow

    return flow()


def watch_budgets() -> list[Alert]:
    from flows.watch_budgets import watch_budgets as flow

    return flow()


def meter() -> Metered:
    from flows.meter import meter as flow

    return flow()


def sweep() -> int:
    from flows.meter import sweep as flow

    return flow()


def scale_test(**request: Any) -> str:
    from flows.scale_test import scale_test as flow

    return flow(ScaleTestRequest(**({"template": "tiny"} | request)))


def scale_test_request(request: dict[str, Any]) -> str:
    """For processes: arguments that can be pickled."""
    return scale_test(**request)


def create_router(vnet: str, **request: Any) -> str:
    from flows.router import create_router as flow

    return flow(CreateRouterRequest(vnet=vnet, **request))


def forward_port(verb: str, vnet: str, port: int, **request: Any) -> str:
    from flows.router import forward_port as flow

    return flow(
        ForwardPortRequest(**({"verb": verb, "vnet": vnet, "protocol": "tcp", "port": port} | request))
    )


def redeploy_router(vnet: str) -> str:
    from flows.router import redeploy_router as flow

    return flow(RedeployRouterRequest(vnet=vnet))


def delete_router(vnet: str) -> str:
    from flows.router import delete_router as flow

    return flow(DeleteRouterRequest(vnet=vnet))


def tell_router(vnet: str) -> None:
    from flows.router import tell_router as flow

    flow(TellRouterRequest(vnet=vnet))
