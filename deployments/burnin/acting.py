"""How each operation of vdc/burnin.py is asked for: the flow, or the audited function, that the CLI uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flows.attach import attach_disk, attach_nic, detach_disk, detach_nic, remove_disk
from flows.deploy import deploy
from flows.migrate import migrate
from flows.power import power
from flows.release import release
from flows.snapshot import delete_snapshot, revert, snapshot
from flows.terminate import terminate
from tasks.environment import environment
from vdc.access import actor
from vdc.burnin import Arguments, Drawn
from vdc.claims.hold import hold
from vdc.claims.marks import protect, rename
from vdc.errors import Conflict, GuestKeeps, Refused, VdcError
from vdc.inventory import write_session
from vdc.requests import (
    AttachDiskRequest,
    AttachNicRequest,
    DeleteSnapshotRequest,
    DeployRequest,
    DetachDiskRequest,
    DetachNicRequest,
    MachinesRequest,
    MigrateRequest,
    PowerRequest,
    RemoveDiskRequest,
    RevertRequest,
    SnapshotRequest,
    TerminateRequest,
)


def _flow(flow: Callable[[Any], object], request: type[Any], tenant: str, arguments: Arguments) -> None:
    flow(request(**{"tenant": tenant} | arguments))


def _hold(tenant: str, arguments: Arguments) -> None:
    with write_session(environment().url) as session:
        hold(session, MachinesRequest(tenant=tenant, **arguments), None, actor=actor())


def _protect(protected: bool, tenant: str, arguments: Arguments) -> None:
    with write_session(environment().url) as session:
        protect(session, MachinesRequest(tenant=tenant, **arguments), protected=protected, actor=actor())


def _rename(tenant: str, arguments: Arguments) -> None:
    with write_session(environment().url) as session:
        rename(session, arguments["vm"], arguments["new"], tenant, actor=actor())


_POWER = partial(_flow, power, PowerRequest)
_ATTACH_DISK = partial(_flow, attach_disk, AttachDiskRequest)
_DETACH_DISK = partial(_flow, detach_disk, DetachDiskRequest)

ACTS: Mapping[str, Callable[[str, Arguments], None]] = {
    "deploy": partial(_flow, deploy, DeployRequest),
    "terminate": partial(_flow, terminate, TerminateRequest),
    "start": _POWER,
    "stop": _POWER,
    "stop --hard": _POWER,
    "reboot": _POWER,
    "reset": _POWER,
    "pause": _POWER,
    "resume": _POWER,
    "suspend": _POWER,
    "migrate": partial(_flow, migrate, MigrateRequest),
    "snapshot create": partial(_flow, snapshot, SnapshotRequest),
    "snapshot revert": partial(_flow, revert, RevertRequest),
    "snapshot delete": partial(_flow, delete_snapshot, DeleteSnapshotRequest),
    "disk attach": _ATTACH_DISK,
    "disk attach --volume": _ATTACH_DISK,
    "disk detach": _DETACH_DISK,
    "disk detach --keep": _DETACH_DISK,
    "disk remove": partial(_flow, remove_disk, RemoveDiskRequest),
    "nic attach": partial(_flow, attach_nic, AttachNicRequest),
    "nic detach": partial(_flow, detach_nic, DetachNicRequest),
    "hold": _hold,
    "release": partial(_flow, release, MachinesRequest),
    "rename": _rename,
    "protect": partial(_protect, True),
    "unprotect": partial(_protect, False),
}
"""Operation -> call with the tenant and the arguments that were drawn."""


def act(drawn: Drawn, tenant: str) -> tuple[str, str, str]:
    """Ask for it; how it ended: outcome, the error's class, the error (see vdc.burnin.Entry)."""
    try:
        ACTS[drawn.operation](tenant, drawn.arguments)
    except Conflict as error:
        return "conflict", "Conflict", str(error)
    except (Refused, GuestKeeps) as error:
        # A guest keeps what is taken from it where another user started its machine meanwhile.
        return "refused", type(error).__name__, str(error)
    except VdcError as error:
        return "failed", type(error).__name__, str(error)
    except Exception as error:  # noqa: BLE001 - what nobody expected is what a burn-in looks for
        return "failed", type(error).__name__, str(error)
    return "done", "", ""
