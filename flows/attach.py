"""Plug disks, drives and network cards into a machine, and take them out again; remove kept disks."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.attaching import attach_and_record, detach_and_record, remove_and_record
from tasks.batches import claimed, fenced
from tasks.filtering import follow_groups
from tasks.routers import routers_told
from vdc.claims.attach import (
    Plug,
    claim_attach_disk,
    claim_attach_nic,
    claim_detach_disk,
    claim_detach_nic,
)
from vdc.claims.volumes import claim_remove
from vdc.errors import OperationFailed, Superseded, VdcError
from vdc.requests import (
    AttachDiskRequest,
    AttachNicRequest,
    DetachDiskRequest,
    DetachNicRequest,
    RemoveDiskRequest,
)


@flow(name="attach-disk", flow_run_name="attach a disk to {request.vm}", **flow_options())
def attach_disk(request: AttachDiskRequest) -> str:
    """Make a new disk, or find the kept one or the ISO image; plug it in; write it down.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the machine
    did not get it: it was taken back, or (which the error says) reconcile does it.
    """
    return _attach(claimed(claim_attach_disk, request, abilities()))


@flow(name="detach-disk", flow_run_name="detach disk {request.disk} from {request.vm}", **flow_options())
def detach_disk(request: DetachDiskRequest) -> str:
    """Have the guest let go of it; keep it or remove it; write it down.

    Returns the operation's id. Raises Refused before anything is touched, GuestKeeps where the guest does not
    let go of it: then the machine has it still.
    """
    return _detach(claimed(claim_detach_disk, request))


@flow(name="attach-nic", flow_run_name="attach a card on {request.vnet} to {request.vm}", **flow_options())
def attach_nic(request: AttachNicRequest) -> str:
    """Lease an address, bring the network to the host, plug the card in, write it down. As `attach_disk`."""
    asked = claimed(claim_attach_nic, request, abilities())
    with routers_told([asked.spec]):
        return _attach(asked)


@flow(name="detach-nic", flow_run_name="detach card {request.nic} from {request.vm}", **flow_options())
def detach_nic(request: DetachNicRequest) -> str:
    """Have the guest let go of it, take down its port, give back its address. As `detach_disk`."""
    asked = claimed(claim_detach_nic, request)
    with routers_told([asked.spec]):
        return _detach(asked)


@flow(name="remove-disk", flow_run_name="remove disk {request.disk}", **flow_options())
def remove_disk(request: RemoveDiskRequest) -> str:
    """Remove a kept disk for good.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where it could not
    be removed: reconcile goes on.
    """
    asked = claimed(claim_remove, request)
    with fenced(asked.claim) as fence:
        try:
            remove_and_record(asked, fence)
        except Superseded:
            raise
        except VdcError as error:
            failure = f"Disk {asked.name} was not removed: {error} `vdc reconcile` goes on."
            raise OperationFailed(failure, asked.claim.operation_id) from error
    return asked.claim.operation_id


def _attach(asked: Plug) -> str:
    with fenced(asked.claim) as fence:
        telling.plug_plan(asked)
        attach_and_record(asked, fence)
    follow_groups()
    return asked.claim.operation_id


def _detach(asked: Plug) -> str:
    with fenced(asked.claim) as fence:
        telling.plug_plan(asked)
        detach_and_record(asked, fence)
    follow_groups()
    return asked.claim.operation_id
