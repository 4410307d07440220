"""`vdc image ...`: disk images."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli import listings
from interfaces.cli.output import (
    human_mib,
    json_option,
    note,
    print_fields,
    print_json,
    print_line,
    print_table,
)
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Disk images."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Images, by name; DISKS and TEMPLATES is how many of them are made from each."""
    with reading() as session:
        rows = listings.images(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        (
            "name",
            "state",
            "tenant",
            "published",
            "persistent",
            "datastore",
            "format",
            "virtual_size_mib",
            "size_mib",
            "disks",
            "templates",
        ),
        empty="No image yet. Import one: vdc image import FILE --name NAME --datastore NAME",
    )


@group.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One image, with what is made from it."""
    from vdc.claims.images import image_use
    from vdc.names import find
    from vdc.schema import Image

    with reading() as session:
        image = find(session, Image, "image", name)
        row = next(r for r in listings.images(session) if r["id"] == image.id)
        use = image_use(session, image)
    if as_json:
        print_json(row | {"used_by": use})
        return
    keys = (
        "name",
        "id",
        "state",
        "tenant",
        "published",
        "persistent",
        "datastore",
        "file",
        "format",
        "sha256",
        "created_at",
    )
    fields = {key: row[key] for key in keys}
    fields["published"] = "to every tenant" if row["published"] else "no: its tenant's alone"
    sizes = (human_mib(row["virtual_size_mib"]), human_mib(row["size_mib"]))
    fields["size"] = f"{sizes[0]} virtual, {sizes[1]} stored"
    used = {"templates": use.templates, "machines": use.vms, "clouds": use.clouds}
    print_fields(fields | {f"used by {what}": names for what, names in used.items()})


@group.command("import")
@click.argument("file", metavar="FILE|URL")
@click.option("--name", required=True, help="Name of the image.")
@click.option("--datastore", required=True, help="Where it is kept.")
@click.option("--sha256", default="", help="Checksum that the file must have, in hex; http needs it.")
@click.option("--tenant", default="", help="Whose it is, and nobody else's until it is published.")
@click.option(
    "--plan", "only_plan", is_flag=True, help="Inspect the file and say what would be; store nothing."
)
@json_option
def import_(
    file: str, name: str, datastore: str, sha256: str, tenant: str, only_plan: bool, as_json: bool
) -> None:
    """Inspect a qcow2 or raw disk image and store it in a datastore."""
    from pathlib import Path

    from vdc.claims.images import check_import
    from vdc.names import find
    from vdc.plan_costs import image_cost
    from vdc.requests import ImportImageRequest
    from vdc.schema import Tenant

    source = file if "://" in file else str(Path(file).absolute())
    request = ImportImageRequest(file=source, name=name, datastore=datastore, sha256=sha256, tenant=tenant)
    with reading() as session:
        target = check_import(session, request)
    if only_plan:
        from tasks.image_check import fetched, look_at_image

        with fetched(request) as there:
            facts = look_at_image(request, there)
        as_it_is = facts.iso or facts.format == target.disk_format
        with reading() as session:
            owner_id = find(session, Tenant, "tenant", tenant).id if tenant else None
            size_mib = -(-facts.size_bytes // 2**20) if as_it_is else facts.virtual_size_mib
            cost = image_cost(prices(session), owner_id, size_mib, exact=as_it_is)
        if as_json:
            plan = {"image": facts, "datastore": datastore, "host": target.host.name}
            print_json(plan | cost_keys(cost))
            return
        print_line(
            f"Would import {name}: {facts.format}, {human_mib(facts.virtual_size_mib)} virtual, sha256 "
            f"{facts.sha256}, to datastore {datastore} as {target.disk_format} by way of {target.host.name}."
        )
        print_cost(cost)
        note("Nothing was stored.")
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


@group.command()
@click.argument("name")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def delete(name: str, only_plan: bool, as_json: bool) -> None:
    """Remove an image for good; refused while a template, a machine or a cloud uses it."""
    from interfaces.cli.running import run_flow
    from vdc.claims.images import claim_delete
    from vdc.plan_costs import image_end_cost
    from vdc.requests import DeleteImageRequest
    from vdc.schema import Image

    request = DeleteImageRequest(image=name)
    with writing(commit=False) as session:
        asked = claim_delete(session, request, actor=actor())
        row = next(r for r in listings.images(session) if r["id"] == asked.image.image_id)
        cost = image_end_cost(prices(session), session.get_one(Image, asked.image.image_id))
    what = {"name": name, "datastore": row["datastore"], "file": row["file"], "size_mib": row["size_mib"]}
    if only_plan:
        if as_json:
            print_json(what | {"host": asked.target.host.name} | cost_keys(cost))
            return
        print_line(
            f"Would delete image {name}: {row['file']}, {human_mib(row['size_mib'])} stored in "
            f"{row['datastore']}, by way of {asked.target.host.name}."
        )
        print_cost(cost)
        note("Nothing was touched.")
        return

    def load_flow() -> Any:
        from flows.delete_image import delete_image

        return delete_image

    operation_id = run_flow(load_flow, request)
    if as_json:
        print_json(what | {"operation_id": operation_id})
        return
    print_line(f"Image {name} is gone: {human_mib(row['size_mib'])} less in {row['datastore']}.")


@group.command()
@click.argument("name")
@click.argument("new")
@click.option("--tenant", default="", help="Whose the new one is; none: as the other.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
@json_option
def clone(name: str, new: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Make a NEW image that has what another one has, in the same datastore."""
    from interfaces.cli.saving import plan_or_run
    from vdc.claims.saving import claim_clone
    from vdc.plan_costs import saving_cost
    from vdc.requests import CloneImageRequest

    request = CloneImageRequest(image=name, name=new, tenant=tenant)
    with writing(commit=False) as session:
        asked = claim_clone(session, request, actor=actor())
        cost = saving_cost(prices(session), asked) if only_plan else None

    def load_flow() -> Any:
        from flows.save_image import clone_image

        return clone_image

    plan_or_run(load_flow, request, asked, [], cost, as_json)


def _switching(verb: str, persistent: bool, text: str) -> click.Command:
    @click.command(verb, help=text)
    @click.argument("name")
    @click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
    @json_option
    def command(name: str, only_plan: bool, as_json: bool) -> None:
        from interfaces.cli.running import run_flow
        from vdc.claims.persistence import claim_switch
        from vdc.plan_costs import unchanged_image_cost
        from vdc.requests import SwitchImageRequest
        from vdc.schema import Image

        request = SwitchImageRequest(image=name, persistent=persistent)
        with writing(commit=False) as session:
            asked = claim_switch(session, request, actor=actor())
            image = session.get_one(Image, asked.made.image.image_id)
            cost = unchanged_image_cost(prices(session), image)
        if only_plan:
            if as_json:
                plan = {"name": name, "file": asked.was, "to": asked.made.image.file}
                print_json(plan | {"host": asked.made.target.host.name} | cost_keys(cost))
                return
            print_line(f"Would rename {asked.was} to {asked.made.image.file}: {name} is {asked.said} then.")
            print_cost(cost)
            note("Nothing was touched.")
            return

        def load_flow() -> Any:
            from flows.switch_image import switch_image

            return switch_image

        run_flow(load_flow, request)
        with reading() as session:
            row = next(r for r in listings.images(session) if r["name"] == name)
        if as_json:
            print_json(row)
            return
        print_line(f"Image {name} is {asked.said}: {row['file']} in {row['datastore']}.")

    return command


for _command in (
    _switching("persistent", True, "Let an image keep what its machine, one at a time, writes to it."),
    _switching(
        "nonpersistent", False, "Let nobody write to an image any more; many machines are made of it."
    ),
):
    group.add_command(_command)


@group.command()
@click.argument("name")
def publish(name: str) -> None:
    """Let every tenant use an image."""
    _publish(name, True)


@group.command()
@click.argument("name")
def unpublish(name: str) -> None:
    """Let its own tenant alone use an image; machines that others made from it stay."""
    _publish(name, False)


def _publish(name: str, published: bool) -> None:
    from vdc.claims.images import publish as change

    with writing() as session:
        changed = change(session, name, published=published, actor=actor())
    print_line(
        f"Image {name} is {'' if changed else 'already '}"
        f"{'published: every tenant may use it' if published else 'for its own tenant alone'}."
    )


@group.command("map-ami")
@click.argument("image")
@click.option("--cloud", required=True, help="Name of the cloud.")
@click.option("--ami", required=True, help="What the image is called there: ami-...")
def map_ami(image: str, cloud: str, ami: str) -> None:
    """Say under which AMI an image's content is in a cloud, so that its machines can burst."""
    from tasks.cloud_check import check_ami
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
@click.argument("recipe", type=click.Choice(["tiny", "router"]))
@click.option("--kernel", type=click.Choice(["debian", "tiny"]), default="debian", show_default=True)
def build(recipe: str, kernel: str) -> None:
    """Build a guest image from Debian packages, and print its path. Cached until its recipe changes."""
    from deployments.guests.images import ensure_image

    print_line(str(ensure_image(recipe, kernel, note)))
