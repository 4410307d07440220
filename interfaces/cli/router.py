"""`vdc router ...`: the gateways of tenants' networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import json_option, note, print_fields, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_keys, prices, print_cost
from interfaces.cli.session import reading, writing
from vdc.access import actor

if TYPE_CHECKING:
    from vdc.pricing import Cost

FREE = "Forwards are not charged."
AS_BEFORE = "The machine is charged as before."

_plan = click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
_vnet = click.argument("vnet", metavar="NETWORK")


@click.group()
def router() -> None:
    """Routers: NAT to the public network, port forwards, DHCP, DNS and NTP for a tenant's network."""


@router.group()
def forward() -> None:
    """Ports of the public address that lead to machines."""


@router.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Routers, by network."""
    from vdc.routers import listing

    with reading() as session:
        rows = listing(session)
    if as_json:
        print_json(rows)
        return
    shown = [row | {"forwards": len(row["forwards"])} for row in rows]
    columns = ("vnet", "tenant", "state", "host", "public_address", "forwards", "machines")
    print_table(shown, columns, empty="No router yet. Make one: vdc router create NETWORK")


@router.command()
@_vnet
@json_option
def show(vnet: str, as_json: bool) -> None:
    """The router of a network, and what it forwards."""
    from vdc.routers import find_router, listing

    with reading() as session:
        row_id = find_router(session, vnet)[0].id
        row = next(r for r in listing(session) if r["id"] == row_id)
    if as_json:
        print_json(row)
        return
    forwards = [f"{f['protocol']} {f['port']} -> {f['vm']}:{f['to_port']}" for f in row["forwards"]]
    print_fields(row | {"forwards": ", ".join(forwards) or "none"})


@router.command()
@_vnet
@click.option("--template", default="router", show_default=True, help="Its one card is on a public network.")
@click.option("--address", default="", help="Public address; default: the next free one.")
@_plan
@json_option
def create(only_plan: bool, as_json: bool, **options: Any) -> None:
    """Make the router of NETWORK: a machine of its tenant, with the gateway's address and a public one."""
    from vdc.claims.routers import claim_create
    from vdc.requests import CreateRouterRequest
    from vdc.settings import load

    request = CreateRouterRequest(**options)
    settings = load()
    with writing(commit=False) as session:
        claim = claim_create(session, request, actor=actor(), prices=settings.prices)
        assert claim.plan is not None, "not a repeated run"
        spec = claim.claimed[0]
    told = {
        "vnet": request.vnet,
        "vm": spec.name,
        "host": spec.host.name,
        "public_address": spec.nics[0].address,
        "address": spec.nics[1].address,
    }
    if only_plan:
        _print_plan(
            f"Would make machine {spec.name} on {spec.host.name}: {spec.nics[0].address} on "
            f"{spec.nics[0].vnet.name}, {spec.nics[1].address} on {request.vnet}.",
            told | {"quota_left": list(claim.plan.quota_left)},
            claim.plan.cost,
            as_json,
        )
        return

    from interfaces.cli.running import run_flow

    def load_flow() -> Any:
        from flows.router import create_router as flow

        return flow

    operation_id = run_flow(load_flow, request)
    with reading() as session:
        told = _present(session, request.vnet) | {"operation_id": operation_id}
    if as_json:
        print_json(told)
        return
    print_line(
        f"{told['vm']} on {told['host']} is the router of {request.vnet}: machines of it go out as "
        f"{told['public_address']}."
    )


def _present(session: Any, vnet: str) -> dict[str, Any]:
    from vdc.routers import listing

    row = next(r for r in listing(session) if r["vnet"] == vnet)
    return {key: row[key] for key in ("vnet", "vm", "host", "public_address", "address")}


@forward.command("add")
@_vnet
@click.argument("protocol", type=click.Choice(["tcp", "udp"]))
@click.argument("port", type=int)
@click.argument("to", metavar="MACHINE[:PORT]")
@_plan
@json_option
def add(vnet: str, protocol: str, port: int, to: str, only_plan: bool, as_json: bool) -> None:
    """Have PORT of the public address lead to a machine's; in force at once. It goes with the machine."""
    vm, _, to_port = to.partition(":")
    if to_port and not to_port.isdigit():
        raise click.BadParameter(
            f"{to!r}: give MACHINE or MACHINE:PORT, such as web-1:8080.", param_hint="TO"
        )
    options = {"vm": vm, "to_port": int(to_port) if to_port else None}
    _forward("add", vnet, protocol, port, only_plan, as_json, **options)


@forward.command("remove")
@_vnet
@click.argument("protocol", type=click.Choice(["tcp", "udp"]))
@click.argument("port", type=int)
@_plan
@json_option
def remove(vnet: str, protocol: str, port: int, only_plan: bool, as_json: bool) -> None:
    """Let no new connection through to that port; those that there are go on."""
    _forward("remove", vnet, protocol, port, only_plan, as_json)


def _forward(
    verb: str, vnet: str, protocol: str, port: int, only_plan: bool, as_json: bool, **options: Any
) -> None:
    from vdc.claims.routers import claim_forward
    from vdc.requests import ForwardPortRequest

    request = ForwardPortRequest.model_validate(
        {"verb": verb, "vnet": vnet, "protocol": protocol, "port": port, **options}
    )
    with writing(commit=False) as session:
        asked = claim_forward(session, request, actor=actor())
        cost = prices(session).free(FREE)
    assert asked.spec.context.router is not None, "it is a router's"
    rules = [f"{f.protocol} {f.port} -> {f.address}:{f.to_port}" for f in asked.spec.context.router.forwards]
    told: dict[str, Any] = {"vnet": vnet, "at_once": asked.running, "forwards": rules}
    said = f"forwards: {', '.join(rules) or 'none'}"
    if only_plan:
        _print_plan(f"The router of {vnet} would have these {said}.", told, cost, as_json)
        return

    def load_flow() -> Any:
        from flows.router import forward_port as flow

        return flow

    when = "" if asked.running else " when it is started"
    _finish(load_flow, request, told, f"The router of {vnet} has these {said}{when}.", as_json)


@router.command()
@_vnet
@_plan
@json_option
def redeploy(vnet: str, only_plan: bool, as_json: bool) -> None:
    """Make the router's machine anew, of its template's present image. Its machines notice a pause."""
    from vdc.claims.routers import claim_redeploy
    from vdc.requests import RedeployRouterRequest

    request = RedeployRouterRequest(vnet=vnet)
    with writing(commit=False) as session:
        (machine,) = claim_redeploy(session, request, actor=actor()).machines
        cost = prices(session).free(AS_BEFORE)
    told = {"vnet": vnet, "vm": machine.spec.name, "host": machine.spec.host.name}
    if only_plan:
        what = f"Would remove {machine.spec.name} from {machine.spec.host.name}, and make it anew there."
        _print_plan(what, told, cost, as_json)
        return

    def load_flow() -> Any:
        from flows.router import redeploy_router as flow

        return flow

    _finish(
        load_flow, request, told, f"{machine.spec.name} was made anew on {machine.spec.host.name}.", as_json
    )


@router.command()
@_vnet
@_plan
@json_option
def delete(vnet: str, only_plan: bool, as_json: bool) -> None:
    """Remove the router of NETWORK, with its forwards, and give its public address back."""
    from vdc.claims.routers import claim_delete
    from vdc.plan_costs import ending_costs
    from vdc.requests import DeleteRouterRequest

    request = DeleteRouterRequest(vnet=vnet)
    with writing(commit=False) as session:
        (machine,) = claim_delete(session, request, actor=actor()).machines
        cost = ending_costs(prices(session), [machine.spec.vm_id])[0]
    told = {
        "vnet": vnet,
        "vm": machine.spec.name,
        "host": machine.spec.host.name,
        "public_address": machine.spec.nics[0].address,
    }
    if only_plan:
        where = f"{machine.spec.name} from {machine.spec.host.name}"
        what = f"Would remove {where}; {told['public_address']} is free then."
        _print_plan(what, told, cost, as_json)
        return

    def load_flow() -> Any:
        from flows.router import delete_router as flow

        return flow

    _finish(
        load_flow,
        request,
        told,
        f"Network {vnet} has no router any more; {told['public_address']} is free.",
        as_json,
    )


def _finish(
    load_flow: Callable[[], Callable[..., str]], request: Any, told: dict[str, Any], said: str, as_json: bool
) -> None:
    """Run the flow, and tell what is then."""
    from interfaces.cli.running import run_flow

    operation_id = run_flow(load_flow, request)
    if as_json:
        print_json(told | {"operation_id": operation_id})
        return
    print_line(said)


def _print_plan(what: str, told: dict[str, Any], cost: Cost, as_json: bool) -> None:
    if as_json:
        print_json(told | cost_keys(cost))
        return
    print_line(what)
    print_cost(cost)
    note("Nothing was touched.")
