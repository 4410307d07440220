"""Removing what is of a tenant, after its data was exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from prefect import task

from drivers import registry
from drivers.whole_file import PART, written
from tasks import attaching, progress
from tasks.batches import claimed, conclude, fenced, read, recorded
from tasks.environment import environment
from tasks.export_directory import DISK_FILES, MANIFEST, MIB, disk_files
from tasks.images import remove_and_record
from tasks.leaving import remove_machines
from tasks.retrying import retrying
from vdc.claims.terminate import claim_terminate
from vdc.disk_export import LeavingDisk
from vdc.errors import Invalid, OperationFailed, Superseded, VdcError
from vdc.offboarding import Leaving, Offboarded, claim_images, claim_volumes, read_export, record_offboarded
from vdc.operations import Fence, close
from vdc.requests import OffboardTenantRequest, TerminateRequest


@task(name="export-tenant", task_run_name="export {leaving.tenant}", **retrying())
def export_tenant(leaving: Leaving, directory: Path, fence: Fence) -> list[str]:
    """Write the tenant's data as JSON and CSV, and each bill's document; returns the names of the files."""
    fence.check(leaving.claim)
    tables = read(read_export, leaving.tenant_id)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half in directory.glob(f"*{PART}"):
            half.unlink()
        _json(directory / MANIFEST, {"tenant": leaving.tenant, "tenant_id": leaving.tenant_id})
        for bill in tables["bills"]:
            (directory / f"bill-{bill['number']}.json").write_text(bill.pop("document"))
        for name, rows in tables.items():
            _json(directory / f"{name}.json", rows)
            _csv(directory / f"{name}.csv", rows)
    except OSError as error:
        raise Invalid(f"The tenant's data cannot be exported: {error}.") from error
    return sorted(file.name for file in directory.iterdir())


@task(name="export-disk", task_run_name="export disk {disk.label}", **retrying())
def export_disk(leaving: Leaving, disk: LeavingDisk, directory: Path, fence: Fence) -> None:
    """Bring it as qcow2 that needs no other file, and list it with its sha256."""
    fence.check(leaving.claim)
    store = registry.datastore(disk.datastore_uri, disk.host, environment().access)

    def told(done_bytes: int, total_bytes: int) -> None:
        progress.report(f"exporting disk {disk.label}, MiB", done_bytes // MIB, total_bytes // MIB)

    sha256 = store.bring_disk(disk.source, directory / disk.file, told)
    row = {
        "file": disk.file,
        "sha256": sha256,
        "machine": disk.machine,
        "disk": disk.name,
        "size_mib": disk.source.size_mib,
    }
    # Those of an earlier run stay: their machines may be gone by now.
    others = [other for other in disk_files(directory) if other["file"] != disk.file]
    _json(directory / DISK_FILES, [*others, row])


def _json(file: Path, value: Any) -> None:
    with written(file) as write:
        write((json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def _csv(file: Path, rows: list[dict[str, Any]]) -> None:
    with file.open("w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            nested = {key: json.dumps(v) for key, v in row.items() if isinstance(v, (dict, list))}
            writer.writerow(row | nested)


def offboard(leaving: Leaving, request: OffboardTenantRequest) -> Offboarded:
    """Export, remove, record. What fails is written down: the tenant stays `leaving`, for a new run."""
    with fenced(leaving.claim) as fence:
        try:
            export_tenant(leaving, Path(request.export), fence)
            for disk in leaving.exported_disks:
                export_disk(leaving, disk, Path(request.export), fence)
            if leaving.machines:
                asked = TerminateRequest(vms=[vm_id for vm_id, _ in leaving.machines])
                batch = claimed(claim_terminate, asked, routers=True)
                remove_machines(batch)
                conclude(batch)
            disks = claimed(claim_volumes, leaving.tenant_id)
            with fenced(*(disk.claim for disk in disks)) as disks_fence:
                for disk in disks:
                    attaching.remove_and_record(disk, disks_fence)
            images = claimed(claim_images, leaving.tenant_id)
            with fenced(*(image.claim for image in images)) as images_fence:
                for image in images:
                    remove_and_record(image, images_fence)
            return recorded(record_offboarded, leaving, request.export)
        except Superseded:
            raise
        except VdcError as error:
            recorded(close, leaving.claim, error=str(error))
            raise OperationFailed(
                f"Tenant {leaving.tenant} is not gone yet: {error} Run it again, and it goes on.",
                leaving.claim.operation_id,
            ) from error
