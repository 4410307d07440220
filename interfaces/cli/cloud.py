"""`vdc cloud ...`: clouds that take machines when our hosts are full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.settings import load

if TYPE_CHECKING:
    from vdc.cloud_prices import PriceList


@click.group()
def group() -> None:
    """Clouds that take machines when our hosts are full (docs/burst.md)."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Clouds, with their prices' age and the machines there."""
    from sqlalchemy import func, select

    from vdc.schema import Cloud, CloudImage, CloudPrice, Image, Vm
    from vdc.states import HOLDING

    rows: list[dict[str, Any]] = []
    with reading() as session:
        for cloud in session.scalars(select(Cloud).order_by(Cloud.name)):
            images = (
                select(Image.name, CloudImage.ami).join(CloudImage).where(CloudImage.cloud_id == cloud.id)
            )
            live = select(func.count()).where(Vm.cloud_id == cloud.id, Vm.state.in_(HOLDING))
            rows.append(
                {
                    "id": cloud.id,
                    "name": cloud.name,
                    "uri": cloud.uri,
                    "offers": session.scalar(select(func.count()).where(CloudPrice.cloud_id == cloud.id)),
                    "currency": cloud.currency,
                    "prices_as_of": cloud.prices_as_of,
                    "images": dict(session.execute(images).all()),
                    "vms": session.scalar(live),
                    "created_at": cloud.created_at,
                }
            )
    if as_json:
        print_json(rows)
        return
    shown = [row | {"images": sorted(row["images"])} for row in rows]
    columns = ("name", "uri", "offers", "currency", "prices_as_of", "images", "vms")
    print_table(
        shown, columns, empty="No cloud yet. Add one: vdc cloud add NAME --uri ec2://REGION --prices FILE"
    )


def _prices(file: str) -> PriceList:
    from pathlib import Path

    from vdc.cloud_prices import parse
    from vdc.errors import Invalid
    from vdc.schema import utc_now

    try:
        text = Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"Price list {file} cannot be read: {error}.") from error
    return parse(text, file, today=utc_now().date())


@group.command()
@click.argument("name")
@click.option("--uri", required=True, help="ec2://REGION, or ec2://REGION?endpoint=URL. No credentials.")
@click.option("--prices", required=True, type=click.Path(), help="Price list (CSV).")
def add(name: str, uri: str, prices: str) -> None:
    """Write a cloud down, with the prices of its instance types."""
    from drivers import registry
    from tasks.environment import environment
    from vdc.clouds import add_cloud

    listed = _prices(prices)
    registry.cloud(uri, environment().access)  # refuses a malformed URI; nobody is asked yet
    with writing() as session:
        add_cloud(session, name, uri, listed, currency=load().prices.currency, actor=actor())
    print_line(
        f"Cloud {name} is ready, with {len(listed.prices)} offers. "
        f"Next: vdc image map-ami IMAGE --cloud {name} --ami AMI"
    )


@group.command("set-prices")
@click.argument("name")
@click.argument("prices", type=click.Path())
def set_prices(name: str, prices: str) -> None:
    """Replace a cloud's price list; machines that run keep the price they were started at."""
    from vdc.clouds import set_prices as replace

    listed = _prices(prices)
    with writing() as session:
        replace(session, name, listed, currency=load().prices.currency, actor=actor())
    print_line(f"Cloud {name} has {len(listed.prices)} offers, as of {listed.as_of}.")
