"""Burst: what our hosts cannot take goes to a cloud, where tenant, request, image and prices allow it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import specs
from vdc.cloud_prices import Price, fitting
from vdc.errors import NoCapacity, Superseded, Unready
from vdc.model import CloudPlace, HostRef, InstanceSeen, Offer
from vdc.operations import Claim
from vdc.requests import DeployRequest
from vdc.schema import (
    Cloud,
    CloudImage,
    CloudPrice,
    Image,
    LaunchAttempt,
    Operation,
    Template,
    Tenant,
    Vm,
    new_id,
)
from vdc.states import HOLDING

PROVIDER = "ec2"
"""As usage events and tariffs call it, whatever driver reaches it."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Where machines go that our hosts cannot take; all of a request go to one cloud.

    `said` are lines for the plan.
    """

    cloud_id: str
    place: CloudPlace
    said: tuple[str, ...]

    @property
    def first(self) -> Offer:
        return self.place.offers[0]

    @property
    def host(self) -> HostRef:
        return cloud_host(self.place, self.first.zone)


def cloud_host(place: CloudPlace, zone: str) -> HostRef:
    """A cloud's zone as the host of a machine."""
    return HostRef(f"{place.name}/{zone}", place.uri)


@dataclass(frozen=True, slots=True)
class Question:
    """What the check before a claim asks of a cloud: does it answer, and has it this image?"""

    name: str
    uri: str
    ami: str


def questions(session: Session, request: DeployRequest) -> list[Question]:
    """The clouds that the request might use. Raises nothing: what is wrong with it the claim says."""
    if request.burst == "never":
        return []
    rows = session.execute(
        select(Cloud.name, Cloud.uri, CloudImage.ami)
        .join(CloudImage, CloudImage.cloud_id == Cloud.id)
        .join(Template, Template.image_id == CloudImage.image_id)
        .where(Template.name == request.template)
        .order_by(Cloud.name)
    )
    return [Question(name, uri, ami) for name, uri, ami in rows]


def choose(
    session: Session,
    request: DeployRequest,
    tenant: Tenant,
    image: Image,
    *,
    vcpu: int,
    memory_mib: int,
    count: int,
    answers: Mapping[str, str],
) -> Burst:
    """The cloud with the cheapest fitting type, for `count` machines of one size.

    `answers` has the clouds that were asked: empty where one answered, else what is wrong with it. Raises
    NoCapacity with the reason where burst is not possible, Unready where no fitting cloud answers.
    """
    _check_allowed(session, request, tenant, count)
    mapped = session.execute(
        select(Cloud, CloudImage.ami)
        .join(CloudImage, CloudImage.cloud_id == Cloud.id)
        .where(CloudImage.image_id == image.id)
        .order_by(Cloud.name)
    ).all()
    if not mapped:
        raise NoCapacity(f"No burst: image {image.name} is known in no cloud (vdc image map-ami).")
    found = []
    for cloud, ami in mapped:
        offers = fitting(_prices(session, cloud.id), vcpu, memory_mib, tenant.burst_max_price)
        if offers:
            found.append(
                (offers[0].price_per_hour, cloud.name, cloud, CloudPlace(cloud.name, cloud.uri, ami, offers))
            )
    if not found:
        limit = f" for at most {tenant.burst_max_price} an hour" if tenant.burst_max_price else ""
        raise NoCapacity(
            f"No burst: no instance type with a known price has {vcpu} vCPU and {memory_mib} MiB{limit}."
        )
    found.sort(key=lambda f: f[:2])
    for price, name, cloud, place in found:
        if not answers.get(name, "it was not asked"):
            first = place.offers[0]
            said = (
                f"{name}: {count} x {first.instance_type} in {first.zone}, {price} {cloud.currency} an hour "
                f"each (list of {cloud.prices_as_of}), as our hosts cannot take "
                f"{'it' if count == 1 else 'them'}",
            )
            return Burst(cloud.id, place, said)
    why = "; ".join(f"{name}: {answers.get(name, 'it was not asked')}" for _, name, _, _ in found)
    raise Unready(f"Our hosts are full, and no cloud can be used: {why}")


def _check_allowed(session: Session, request: DeployRequest, tenant: Tenant, count: int) -> None:
    if not tenant.burst_allowed:
        raise NoCapacity(f"No burst: tenant {tenant.name} does not allow it (burst in its tenant file).")
    if request.start != "running":
        raise NoCapacity(f"No burst: an instance is started running, not {request.start}.")
    if request.group:
        raise NoCapacity("No burst: machines of a placement group stay on hosts of ours.")
    if tenant.burst_max_vms is None:
        return
    there = session.scalar(
        select(func.count()).where(Vm.tenant_id == tenant.id, Vm.cloud_id.is_not(None), Vm.state.in_(HOLDING))
    )
    if (there or 0) + count > tenant.burst_max_vms:
        raise NoCapacity(
            f"No burst: tenant {tenant.name} has {there} of {tenant.burst_max_vms} machines in clouds, "
            f"{count} more would be needed."
        )


def _prices(session: Session, cloud_id: str) -> list[Price]:
    rows = session.scalars(select(CloudPrice).where(CloudPrice.cloud_id == cloud_id))
    return [Price(r.instance_type, r.zone, r.vcpu, r.memory_mib, r.price_per_hour) for r in rows]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A token that was, or is about to be, used for a type in a zone."""

    token: str
    offer: Offer


def _require_held(session: Session, claim: Claim) -> None:
    row = session.get(Operation, claim.operation_id)
    if row is None or row.epoch != claim.epoch or row.finished_at is not None:
        raise Superseded(f"Operation {claim.operation_id} was taken over by another process.")


def open_attempt(session: Session, claim: Claim, vm_id: str, offers: tuple[Offer, ...]) -> Attempt | None:
    """The machine's attempt of which nobody knows what came, or a new one on the next offer; None: no more.

    Must be committed before the launch is called. Raises Superseded.
    """
    _require_held(session, claim)
    rows = session.scalars(
        select(LaunchAttempt).where(LaunchAttempt.vm_id == vm_id).order_by(LaunchAttempt.created_at)
    ).all()
    for row in rows:
        if row.outcome is None:
            price = next(
                (
                    o.price_per_hour
                    for o in offers
                    if (o.instance_type, o.zone) == (row.instance_type, row.zone)
                ),
                Decimal(0),
            )
            return Attempt(row.token, Offer(row.instance_type, row.zone, price))
    tried = {(row.instance_type, row.zone) for row in rows if row.operation_id == claim.operation_id}
    offer = next((o for o in offers if (o.instance_type, o.zone) not in tried), None)
    if offer is None:
        return None
    attempt = LaunchAttempt(
        token=new_id(),
        operation_id=claim.operation_id,
        vm_id=vm_id,
        instance_type=offer.instance_type,
        zone=offer.zone,
    )
    session.add(attempt)
    return Attempt(attempt.token, offer)


def close_attempt(session: Session, claim: Claim, token: str, why: str) -> None:
    """The attempt came to nothing, for certain. Raises Superseded."""
    _require_held(session, claim)
    session.get_one(LaunchAttempt, token).outcome = why


def record_launched(
    session: Session, claim: Claim, place: CloudPlace, vm_id: str, seen: InstanceSeen
) -> None:
    """Write down which instance a machine is, of which type, where, at which price. Raises Superseded."""
    _require_held(session, claim)
    attempt = session.get(LaunchAttempt, seen.token)
    if attempt is not None:
        attempt.outcome, attempt.instance_id = "launched", seen.instance_id
    vm = session.get_one(Vm, vm_id)
    vm.instance_id, vm.instance_type, vm.zone = seen.instance_id, seen.instance_type, seen.zone
    vm.cloud_address = seen.address or None
    vm.hourly_price = next(
        (
            o.price_per_hour
            for o in place.offers
            if (o.instance_type, o.zone) == (seen.instance_type, seen.zone)
        ),
        vm.hourly_price,
    )
    vm.spec = specs.dump(replace(specs.load(vm.spec), host=cloud_host(place, seen.zone)))


def tried(session: Session, vm_id: str) -> list[str]:
    """What was tried for a machine, and what came of it."""
    rows = session.scalars(
        select(LaunchAttempt).where(LaunchAttempt.vm_id == vm_id).order_by(LaunchAttempt.created_at)
    )
    return [f"{r.instance_type} in {r.zone}: {r.outcome or 'unknown'}" for r in rows]
