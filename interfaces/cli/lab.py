"""`vdc lab`: a datacenter of real hypervisor hosts on this machine."""

from __future__ import annotations

import dataclasses
import os

import click

from deployments.lab import control, state
from deployments.lab.layout import MAX_HOSTS
from deployments.lab.probe import open_probe
from interfaces.cli.output import json_option, print_fields, print_json, print_line, print_table

lab_option = click.option(
    "--lab", "lab_id", default="demo", show_default=True, envvar="VDC_LAB_ID", help="Which lab, by its id."
)


@click.group()
def lab() -> None:
    """Real hypervisor hosts on this machine, in namespaces. Needs root."""


@lab.command()
@lab_option
@click.option(
    "--hosts", type=click.IntRange(2, MAX_HOSTS), default=2, show_default=True, help="How many hosts."
)
@click.option(
    "--fast-floor/--no-fast-floor",
    default=None,
    help="Skip a check of CPU features at each start: to measure.",
)
@click.option("--nfs/--no-nfs", default=None, help="With a file server, for a datastore of kind nfs.")
@json_option
def up(lab_id: str, hosts: int, fast_floor: bool | None, nfs: bool | None, as_json: bool) -> None:
    """Start the lab, or repair what is missing of it."""
    _show(control.up(lab_id, hosts, fast_floor=fast_floor, nfs=nfs), as_json)


@lab.command()
@lab_option
@click.option("--purge", is_flag=True, help="Remove its disks, definitions and keys too.")
def down(lab_id: str, purge: bool) -> None:
    """Take the lab down to its last process, with whatever runs on it."""
    control.down(lab_id, purge=purge)


@lab.command()
@lab_option
@json_option
def status(lab_id: str, as_json: bool) -> None:
    """Show the hosts, their addresses and what is missing."""
    _show(state.load(lab_id), as_json)


@lab.command(context_settings={"ignore_unknown_options": True})
@lab_option
@click.option(
    "--vlan", type=click.IntRange(1, 4094), help="VLAN on the trunk; without it, the flat network of br0."
)
@click.option("--address", required=True, help="Address of the probe, such as 10.1.0.250/24.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def probe(lab_id: str, vlan: int | None, address: str, command: tuple[str, ...]) -> None:
    """Run COMMAND on a network of the lab, for example: -- curl -s http://10.1.0.2/"""
    argv = open_probe(lab_id, vlan, address).command(command)
    os.execvp(argv[0], argv)  # noqa: S606 - its exit code becomes ours


def _show(seen: state.Lab, as_json: bool) -> None:
    if as_json:
        print_json({**dataclasses.asdict(seen), "state": seen.state})
        return
    rows = [
        {
            "name": host.name,
            "state": host.state,
            "reached_at": f"{host.address}:{host.port}",
            "host_key": host.fingerprint,
            "missing": ", ".join(host.missing) if host.state == "degraded" else "",
        }
        for host in seen.hosts
    ]
    print_table(rows, ("name", "state", "reached_at", "host_key", "missing"))
    print_line()
    print_fields(
        {
            "lab": f"{seen.lab_id} ({seen.state})",
            "datastore": seen.datastore,
            "image_cache": seen.image_cache,
            "ec2": seen.ec2_url or "down",
            "nfs": seen.nfs_uri or "down",
            **{f"uri_of_{host.name}": host.uri for host in seen.hosts},
        }
    )


if __name__ == "__main__":
    lab()
