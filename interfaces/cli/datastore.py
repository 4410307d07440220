"""`vdc datastore ...`: places for images and disks."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli import listings
from interfaces.cli.output import human_mib, json_option, note, print_json, print_line, print_table
from interfaces.cli.session import reading, writing
from vdc.access import actor


@click.group()
def group() -> None:
    """Places for images and disks."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Datastores: size and free space as last observed, and what machines were promised."""
    with reading() as session:
        rows = listings.datastores(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        [line for row in rows for line in _lines(row)],
        (
            "name",
            ("where", "HOST"),
            "capacity_mib",
            "used_mib",
            "free_mib",
            "allocated_mib",
            "promised",
            ("overcommit", "LIMIT"),
            "uri",
        ),
        empty="No datastore yet. Add one: vdc datastore create NAME --uri qcow2:///srv/vdc/shared",
    )


def _lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """One line of a shared datastore, one a host of the others."""
    if row["shared"] or not row["parts"]:
        return [row | {"where": f"{row['hosts']} hosts" if row["hosts"] != 1 else "1 host"}]
    return [row | part | {"where": part["host"]} for part in row["parts"]]


@group.command()
@click.argument("name")
@click.option(
    "--uri",
    required=True,
    help="qcow2:///DIRECTORY, raw:///... or local:///... on hosts, nfs://SERVER/DIRECTORY.",
)
@click.option("--overcommit", type=float, help="How many times its size may be promised; none: any.")
def create(name: str, uri: str, overcommit: float | None) -> None:
    """Write a datastore down. Hosts prove that they mount it when they are enrolled."""
    from drivers.registry import datastore_capabilities
    from tasks.host_check import complete_datastore_uri
    from vdc.catalog import create_datastore

    uri = complete_datastore_uri(uri)
    can = datastore_capabilities(uri)
    with writing() as session:
        create_datastore(
            session,
            name,
            uri,
            disk_format=can.disk_format,
            shared=can.shared,
            overcommit=overcommit,
            actor=actor(),
        )
    print_line(f"Datastore {name} is at {uri}.")


@group.command()
@click.argument("name")
@click.option("--host", "hosts", multiple=True, help="Host that mounts it; none given: all that do.")
@json_option
def mount(name: str, hosts: tuple[str, ...], as_json: bool) -> None:
    """Have hosts that are enrolled already prove that they mount a datastore."""
    from tasks.host_check import look_for_datastore
    from vdc.claims.hosts import hosts_to_mount, record_mounted
    from vdc.errors import Refused

    with reading() as session:
        uri, refs = hosts_to_mount(session, name, hosts)
    seen, rows = {}, []
    for ref in refs:
        try:
            seen[ref.name] = use = look_for_datastore(uri, ref)
        except Refused as error:
            if hosts:
                raise
            rows.append({"host": ref.name, "mounts": False, "why": str(error)})
        else:
            rows.append({"host": ref.name, "mounts": True, "why": "", "free_mib": use.free_mib})
    if seen:
        with writing() as session:
            record_mounted(session, name, seen, actor=actor())
    if as_json:
        print_json(rows)
        return
    for row in rows:
        free = f"mounts {name}: {human_mib(row['free_mib'])} free" if row["mounts"] else row["why"]
        print_line(f"{row['host']}: {free}")
    if not rows:
        note(f"Every host that was asked about is known to mount {name}.")
