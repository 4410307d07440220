"""`vdc image ...`: disk images."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli import listings
from interfaces.cli.output import human_mib, json_option, print_json, print_line, print_table
from interfaces.cli.session import reading, writing


@click.group()
def group() -> None:
    """Disk images."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Images, by name; DISKS is how many disks stand on each."""
    with reading() as session:
        rows = listings.images(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        ("name", "state", "datastore", "format", "virtual_size_mib", "size_mib", "disks"),
        empty="No image yet. Import one: vdc image import FILE --name NAME --datastore NAME",
    )


@group.command("import")
@click.argument("file", type=click.Path())
@click.option("--name", required=True, help="Name of the image.")
@click.option("--datastore", required=True, help="Where it is kept.")
@click.option("--sha256", default="", help="Checksum that the file must have, in hex.")
@click.option(
    "--plan", "only_plan", is_flag=True, help="Inspect the file and say what would be; store nothing."
)
@json_option
def import_(file: str, name: str, datastore: str, sha256: str, only_plan: bool, as_json: bool) -> None:
    """Inspect a qcow2 or raw disk image and store it in a datastore."""
    from pathlib import Path

    from vdc.claims.images import check_import
    from vdc.requests import ImportImageRequest

    request = ImportImageRequest(
        file=str(Path(file).absolute()), name=name, datastore=datastore, sha256=sha256
    )
    with reading() as session:
        target = check_import(session, request)
    if only_plan:
        from tasks.image_check import look_at_image

        facts = look_at_image(request)
        if as_json:
            print_json({"image": facts, "datastore": datastore, "host": target.host.name})
            return
        print_line(
            f"Would import {name}: {facts.format}, {human_mib(facts.virtual_size_mib)} virtual, sha256 "
            f"{facts.sha256}, to datastore {datastore} as {target.disk_format} by way of {target.host.name}."
        )
        return
    from interfaces.cli.running import run_flow

    def load_flow() -> Any:
        from flows.import_image import import_image

        return import_image

    run_flow(load_flow, request)
    with reading() as session:
        row = next(r for r in listings.images(session) if r["name"] == name)
    if as_json:
        print_json(row)
        return
    print_line(
        f"Image {name} is ready: {row['format']}, {human_mib(row['virtual_size_mib'])} virtual, "
        f"{human_mib(row['size_mib'])} stored in {row['datastore']}, sha256 {row['sha256']}."
    )


@group.command("map-ami")
@click.argument("image")
@click.option("--cloud", required=True, help="Name of the cloud.")
@click.option("--ami", required=True, help="What the image is called there: ami-...")
def map_ami(image: str, cloud: str, ami: str) -> None:
    """Say under which AMI an image's content is in a cloud, so that its machines can burst."""
    from tasks.cloud_check import check_ami
    from vdc.access import actor
    from vdc.clouds import map_image
    from vdc.names import find
    from vdc.schema import Cloud

    with reading() as session:
        uri = find(session, Cloud, "cloud", cloud).uri
    check_ami(uri, ami)
    with writing() as session:
        changed = map_image(session, image, cloud, ami, actor=actor())
    print_line(f"Image {image} is {'' if changed else 'already '}{ami} in {cloud}.")


@group.command()
@click.argument("recipe", type=click.Choice(["tiny"]))
@click.option("--kernel", type=click.Choice(["debian", "tiny"]), default="debian", show_default=True)
def build(recipe: str, kernel: str) -> None:
    """Build a guest image from Debian packages, and print its path. Cached until its recipe changes."""
    from deployments.guests.tiny import ensure_tiny
    from interfaces.cli.output import note

    print_line(str(ensure_tiny(kernel, note)))
