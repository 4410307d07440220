"""Usage events that are written one at a time: each in the transaction of what it tells, under its operation.

Those of mass operations are written in groups by vdc/records.py. What each tells: docs/billing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from vdc import specs
from vdc.claims.burst import PROVIDER
from vdc.operations import Claim
from vdc.schema import Image, Nic, Snapshot, UsageEvent, Vm, Vnet

IMAGE = "image"
"""Provider of an image's events."""


def vm_event(vm: Vm, claim: Claim, kind: str, at: datetime, host: str) -> UsageEvent:
    """What a machine became at `at`, with the size that it has."""
    spec = specs.load(vm.spec)
    return UsageEvent(
        operation_id=claim.operation_id,
        vm_id=vm.id,
        tenant_id=vm.tenant_id,
        kind=kind,
        at=at,
        vcpu=vm.vcpu,
        memory_mib=vm.memory_mib,
        disk_mib=sum(d.size_mib for d in spec.disks),
        host=host,
        provider=PROVIDER if vm.cloud_id else "local",
        hourly_price=vm.hourly_price,
    )


def record_snapshot_use(session: Session, vm_id: str, claim: Claim, kind: str, at: datetime) -> None:
    """What a machine's snapshots take in all, from `at` on: those that were made and are not removed yet."""
    session.flush()
    vm = session.get_one(Vm, vm_id)
    taken = session.scalar(select(func.sum(Snapshot.size_mib)).where(Snapshot.vm_id == vm_id))
    event = vm_event(vm, claim, kind, at, specs.load(vm.spec).host.name)
    event.snapshot_mib = int(taken or 0)
    session.add(event)


def site_addresses(vm_id: Any) -> Select[int]:
    """How many addresses of the site's networks a machine has: those are the public ones."""
    return (
        select(func.count(Nic.id))
        .join(Vnet, Vnet.id == Nic.vnet_id)
        .where(Nic.vm_id == vm_id, Vnet.tenant_id.is_(None))
    )


def record_address_use(session: Session, nic: Nic, claim: Claim, kind: str, at: datetime) -> None:
    """How many addresses of the site's networks a machine has from `at` on, with a card or without it."""
    if session.get_one(Vnet, nic.vnet_id).tenant_id is not None:
        return
    session.flush()
    vm = session.get_one(Vm, nic.vm_id)
    event = vm_event(vm, claim, kind, at, specs.load(vm.spec).host.name)
    event.addresses = session.scalar(site_addresses(vm.id))
    session.add(event)


def record_image_use(session: Session, image: Image, claim: Claim, kind: str, at: datetime) -> None:
    """An image that is a tenant's is `stored`, or `removed` where it had been; the site's own pay nothing.

    `attached`: a machine has it, and pays for it as its disk.
    """
    there = select(UsageEvent.id).where(UsageEvent.image_id == image.id, UsageEvent.kind == "stored")
    if image.tenant_id is None or (kind == "removed" and session.scalars(there).first() is None):
        return
    session.add(
        UsageEvent(
            operation_id=claim.operation_id,
            image_id=image.id,
            image=image.name,
            tenant_id=image.tenant_id,
            kind=kind,
            at=at,
            vcpu=0,
            memory_mib=0,
            disk_mib=0 if kind == "attached" else image.size_mib,
            host="",
            provider=IMAGE,
        )
    )


def with_event(session: Session, vm_ids: Sequence[str], kind: str) -> set[str]:
    """Those of the machines that have an event of that kind."""
    query = select(UsageEvent.vm_id).where(UsageEvent.vm_id.in_(vm_ids), UsageEvent.kind == kind)
    return {vm_id for vm_id in session.scalars(query) if vm_id}
