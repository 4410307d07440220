"""Remove a tenant, after its data was exported."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.settings import flow_options
from tasks.batches import claimed
from tasks.export_directory import check_directory, read_room
from tasks.offboarding import offboard
from vdc.offboarding import Offboarded, claim_offboard
from vdc.requests import OffboardTenantRequest


@flow(name="offboard-tenant", flow_run_name="offboard {request.tenant}", **flow_options())
def offboard_tenant(request: OffboardTenantRequest) -> Offboarded:
    """Shut the tenant out, export its data, remove machines, images and the rest, erase what is personal.

    Returns what was removed, and the proof that nothing is left. Raises Refused before anything is touched,
    OperationFailed where something could not be removed: run again, it goes on.
    """
    check_directory(Path(request.export), request.tenant)
    leaving = claimed(claim_offboard, request, read_room(Path(request.export)))
    return offboard(leaving, request)
