"""Clouds that an administrator writes down, their prices, and what our images are called there."""

from __future__ import annotations

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.claims.deploy import check_usable
from vdc.cloud_prices import PriceList
from vdc.errors import Conflict, Invalid, InvalidState
from vdc.names import find, require_new
from vdc.operations import Opening
from vdc.schema import Cloud, CloudImage, CloudPrice, Image, new_id


def add_cloud(
    session: Session, name: str, uri: str, prices: PriceList, *, currency: str, actor: str
) -> Cloud:
    """A cloud with its price list. `currency` is the site's, in which machines are billed.

    Raises Invalid or Conflict.
    """
    require_new(session, Cloud, "Cloud", name)
    taken = session.scalars(select(Cloud.name).where(Cloud.uri == uri)).first()
    if taken is not None:
        raise Conflict(f"{uri} is cloud {taken} already.")
    cloud = Cloud(id=new_id(), name=name, uri=uri, currency=prices.currency, prices_as_of="")
    session.add(cloud)
    _write_prices(session, cloud, prices, currency)
    _journal(session, "create", cloud, {"uri": uri, "prices": len(prices.prices)}, actor)
    return cloud


def set_prices(session: Session, name: str, prices: PriceList, *, currency: str, actor: str) -> Cloud:
    """Replace a cloud's price list. Machines that run keep the price they were started at."""
    cloud = find(session, Cloud, "cloud", name)
    _write_prices(session, cloud, prices, currency)
    _journal(session, "set prices", cloud, {"prices": len(prices.prices)}, actor)
    return cloud


def map_image(session: Session, image: str, cloud: str, ami: str, *, actor: str) -> bool:
    """Say what `image` is called in `cloud`; False where it was so already. Raises Refused."""
    row, there = find(session, Image, "image", image), find(session, Cloud, "cloud", cloud)
    check_usable(session, row)
    if row.persistent:
        raise InvalidState(f"Image {image} is persistent, and is here: its machine cannot burst.")
    known = session.get(CloudImage, (row.id, there.id))
    if known is not None and known.ami == ami:
        return False
    if known is None:
        session.add(CloudImage(image_id=row.id, cloud_id=there.id, ami=ami))
    else:
        known.ami = ami
    _journal(session, "map image", there, {"image": image, "ami": ami}, actor)
    return True


def _write_prices(session: Session, cloud: Cloud, prices: PriceList, currency: str) -> None:
    if prices.currency != currency:
        raise Invalid(
            f"The price list is in {prices.currency}, bills are in {currency}: convert it (setting currency)."
        )
    cloud.currency, cloud.prices_as_of = prices.currency, prices.as_of.isoformat()
    session.flush()
    session.execute(delete(CloudPrice).where(CloudPrice.cloud_id == cloud.id))
    session.execute(
        insert(CloudPrice),
        [
            {
                "cloud_id": cloud.id,
                "instance_type": p.instance_type,
                "zone": p.zone,
                "vcpu": p.vcpu,
                "memory_mib": p.memory_mib,
                "price_per_hour": p.price_per_hour,
            }
            for p in prices.prices
        ],
    )


def _journal(session: Session, kind: str, cloud: Cloud, spec: dict[str, object], actor: str) -> None:
    session.flush()
    opening = Opening(kind, "cloud", cloud.id, cloud.name, spec)
    operations.close(session, operations.open_one(session, opening, actor=actor))
