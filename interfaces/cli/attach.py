"""`vdc vm disk ...` and `vdc vm nic ...`: what is plugged into machines and taken out of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.claims.attach import Plug
    from vdc.pricing import Cost

_UNITS = {"M": 1, "G": 1024, "T": 1024 * 1024}

_tenant = click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
_plan = click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")


class Size(click.ParamType):
    """`4G`, `512M`, `2T`: in MiB."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,9})([MGT])", str(value), re.IGNORECASE)
        if not found:
            self.fail(
                f"{value!r} is no size: a number with M, G or T (MiB, GiB, TiB), such as 4G.", param, ctx
            )
        return int(found[1]) * _UNITS[found[2].upper()]


@click.group("disk")
def disk() -> None:
    """Disks and ISO images of a machine: attach, detach."""


@click.group("nic")
def nic() -> None:
    """Network cards of a machine: attach, detach."""


@disk.command("attach")
@click.argument("vm")
@click.option("--size", "size_mib", type=Size(), help="A new, empty disk of that size, such as 4G.")
@click.option("--name", default="", help="Name of the new disk; none given: made up.")
@click.option("--volume", default="", metavar="NAME", help="A disk that was kept (`vdc disk list`).")
@click.option("--iso", default="", metavar="IMAGE", help="An ISO image, in a drive; it can only be read.")
@_tenant
@_plan
@json_option
def attach_disk(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Give a machine another disk, also while it runs."""
    from interfaces.cli.session import reading, writing
    from tasks.abilities import abilities
    from vdc.claims.attach import claim_attach_disk
    from vdc.plan_costs import plug_cost
    from vdc.requests import AttachDiskRequest

    if sum((options["size_mib"] is not None, bool(options["volume"]), bool(options["iso"]))) != 1:
        raise click.UsageError("Say which disk: --size (a new one), --volume, or --iso.")
    request = AttachDiskRequest(**options)
    with reading():
        can = abilities()
    with writing(commit=False) as session:
        asked = claim_attach_disk(session, request, can, actor=actor())
        cost = plug_cost(prices(session), asked) if only_plan else None

    def load_flow() -> Any:
        from flows.attach import attach_disk as flow

        return flow

    _go(load_flow, request, asked, cost, as_json)


@disk.command("detach")
@click.argument("vm")
@click.argument("disk")
@click.option("--keep", is_flag=True, help="Keep it, with what is on it; else it is removed for good.")
@_tenant
@_plan
@json_option
def detach_disk(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Take a disk, or an ISO image, from a machine, also while it runs."""
    from interfaces.cli.session import writing
    from vdc.claims.attach import claim_detach_disk
    from vdc.plan_costs import plug_cost
    from vdc.requests import DetachDiskRequest

    request = DetachDiskRequest(**options)
    with writing(commit=False) as session:
        asked = claim_detach_disk(session, request, actor=actor())
        cost = plug_cost(prices(session), asked) if only_plan else None

    def load_flow() -> Any:
        from flows.attach import detach_disk as flow

        return flow

    _go(load_flow, request, asked, cost, as_json)


@nic.command("attach")
@click.argument("vm")
@click.option("--vnet", required=True, help="The virtual network.")
@click.option("--address", default="", help="Its address; none given: the next free one.")
@_tenant
@_plan
@json_option
def attach_nic(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Give a machine another network card, also while it runs."""
    from interfaces.cli.session import writing
    from tasks.abilities import abilities
    from vdc.claims.attach import claim_attach_nic
    from vdc.plan_costs import plug_cost
    from vdc.requests import AttachNicRequest

    request = AttachNicRequest(**options)
    can = abilities()
    with writing(commit=False) as session:
        asked = claim_attach_nic(session, request, can, actor=actor())
        cost = plug_cost(prices(session), asked) if only_plan else None

    def load_flow() -> Any:
        from flows.attach import attach_nic as flow

        return flow

    _go(load_flow, request, asked, cost, as_json)


@nic.command("detach")
@click.argument("vm")
@click.argument("nic")
@_tenant
@_plan
@json_option
def detach_nic(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Take a card from a machine: NIC is its address, its MAC, or its network if that is the only one."""
    from interfaces.cli.session import writing
    from vdc.claims.attach import claim_detach_nic
    from vdc.plan_costs import plug_cost
    from vdc.requests import DetachNicRequest

    request = DetachNicRequest(**options)
    with writing(commit=False) as session:
        asked = claim_detach_nic(session, request, actor=actor())
        cost = plug_cost(prices(session), asked) if only_plan else None

    def load_flow() -> Any:
        from flows.attach import detach_nic as flow

        return flow

    _go(load_flow, request, asked, cost, as_json)


def _go(load_flow: Callable[[], Any], request: Any, asked: Plug, cost: Cost | None, as_json: bool) -> None:
    """Print the plan, where it has a cost, or run the flow. What cannot be was refused by now."""
    told = _told(asked)
    if cost is not None:
        _print_plan(asked, told, cost, as_json)
        return
    from interfaces.cli.running import run_flow

    operation_id = run_flow(load_flow, request)
    if as_json:
        print_json({"name": asked.spec.name, "operation_id": operation_id} | told)
        return
    if asked.attaches:
        print_line(f"{asked.spec.name} on {asked.spec.host.name} has {asked.name}.")
    else:
        print_line(
            f"{asked.spec.name} on {asked.spec.host.name} is without {asked.name}. {_after(asked)}".rstrip()
        )


def _told(asked: Plug) -> dict[str, Any]:
    from vdc.model import CdromSpec, DiskSpec, NicSpec

    match asked.device:
        case DiskSpec() as device:
            return {"disk": device.name, "size_mib": device.size_mib, "kept": asked.keep}
        case CdromSpec() as drive:
            return {"iso": drive.name}
        case NicSpec() as card:
            return {"vnet": card.vnet.name, "address": card.address, "mac": card.mac}


def _after(asked: Plug) -> str:
    from vdc.model import CdromSpec, DiskSpec

    match asked.device:
        case DiskSpec() as device if asked.keep:
            return f"It is kept: `vdc disk list`, `vdc vm disk attach VM --volume {device.name}`."
        case DiskSpec():
            return "It is removed, with what was on it."
        case CdromSpec():
            return ""
    return f"Address {asked.device.address} is free."


def _print_plan(asked: Plug, told: dict[str, Any], cost: Cost, as_json: bool) -> None:
    from vdc.model import DiskSpec

    if as_json:
        plan = {"name": asked.spec.name, "host": asked.spec.host.name, "act": asked.kind} | told
        print_json(plan | {"quota_left": asked.quota_left} | cost_keys(cost))
        return
    verb = "attach" if asked.attaches else "detach"
    size = f", {told['size_mib']} MiB" if "size_mib" in told else ""
    print_line(f"Would {verb} {asked.name}{size}: machine {asked.spec.name} on {asked.spec.host.name}.")
    if isinstance(asked.device, DiskSpec) and not asked.attaches:
        kept = "kept, and charged as a disk" if asked.keep else "removed for good"
        print_line(f"It would be {kept}.")
    print_cost(cost)
    if asked.quota_left:
        print_line(f"Quota left: {', '.join(asked.quota_left)}")
    note("Nothing was touched.")
