"""`vdc up`, `vdc down`, `vdc status`: the control plane of this machine."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, note, print_json, print_line
from vdc.settings import Settings, load


@click.command()
@json_option
def up(as_json: bool) -> None:
    """Put the control plane into service; what is there already is left alone."""
    from deployments.control import prefect_objects, server, worker
    from deployments.control.service import prepare

    settings = load()
    _check_may("up", settings)
    prepare(settings)
    started = server.ensure_started(settings, note)
    prefect_objects.ensure_objects(settings)
    started |= worker.ensure_started(settings)
    if as_json:
        print_json(_status(settings))
        return
    print_line(f"The control plane is {'up' if started else 'up already'}.")
    print_line(f"Prefect UI: {server.ui_url(settings)}")


@click.command()
def down() -> None:
    """Take worker and Prefect server out of service. Machines, hosts and inventory stay as they are."""
    from deployments.control import server, worker

    settings = load()
    _check_may("down", settings)
    # The server last: flow runs that are stopped say so to it.
    if worker.ensure_stopped(settings):
        print_line("The worker is stopped; `vdc reconcile` finishes what its flow runs left open.")
    if server.ensure_stopped(settings):
        print_line("The Prefect server is stopped.")
    else:
        print_line("No Prefect server of ours was running.")


def _check_may(what: str, settings: Settings) -> None:
    """Raises Forbidden for whom the control plane is not: it is the administrators' alone."""
    from vdc import inventory
    from vdc.access import Role
    from vdc.errors import Forbidden
    from vdc.identity import acting, credentials
    from vdc.revision import needed_revision

    # Without an inventory of this version there is no user yet whose rights could be asked for.
    known = inventory.revision(settings.inventory_url) == needed_revision()
    may = acting(settings).role is Role.ADMINISTRATOR if known else credentials(settings).of_system
    if not may:
        raise Forbidden(f"`vdc {what}` is for administrators alone.")


@click.command()
@json_option
def status(as_json: bool) -> None:
    """Say what is in service."""
    seen = _status(load())
    if as_json:
        print_json(seen)
        return
    server, worker, inventory = seen["server"], seen["worker"], seen["inventory"]
    pid = f", pid {server['pid']}" if server["pid"] else ""
    print_line(f"Prefect server: {'up' if server['up'] else 'down'} ({server['url']}{pid})")
    if server["up"]:
        print_line(f"Prefect UI:     {server['ui_url']}")
    print_line(f"Worker:         {_say_worker(worker)}")
    print_line(
        f"Inventory:      {inventory['url']} ({inventory['problem'] or 'schema ' + inventory['revision']})"
    )
    if not inventory["problem"]:
        counts = f"{seen['hosts']} hosts, {seen['vms']} vms, {seen['open_operations']} open operations"
        print_line(f"Datacenter:     {counts}")
    if not server["up"] or inventory["problem"] or (worker["limit"] and not worker["up"]):
        note("Start it with `vdc up`.")


def _say_worker(worker: dict[str, Any]) -> str:
    if worker["up"]:
        return f"up (pid {worker['pid']}, {worker['limit']} flow runs at once)"
    if not worker["limit"]:
        return "none (worker_limit is 0)"
    return "down: nothing runs that the Prefect UI or a schedule asks for"


def _status(settings: Settings) -> dict[str, Any]:
    from sqlalchemy import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from deployments.control.server import read_status
    from deployments.control.worker import read_status as read_worker
    from vdc import inventory
    from vdc.errors import Refused

    server, worker = read_status(settings), read_worker(settings)
    url = settings.inventory_url
    seen: dict[str, Any] = {
        "server": {"up": server.up, "url": server.url, "ui_url": server.ui_url, "pid": server.pid},
        "worker": {"up": worker.pid is not None, "pid": worker.pid, "limit": worker.limit},
        "inventory": {
            "url": make_url(url).render_as_string(hide_password=True),
            "revision": None,
            "problem": None,
        },
        "hosts": None,
        "vms": None,
        "open_operations": None,
    }
    try:
        seen["inventory"]["revision"] = inventory.revision(url)
        inventory.require(url)
        seen |= _counts(settings)
    except (Refused, SQLAlchemyError) as error:
        # A status says what is wrong; it does not fail because of it.
        seen["inventory"]["problem"] = str(error).splitlines()[0]
    return seen


def _counts(settings: Settings) -> dict[str, int]:
    """Of what who asks may see."""
    from sqlalchemy import func, select

    from interfaces.cli.session import reading
    from vdc.access import visible
    from vdc.schema import Host, Operation, Vm
    from vdc.states import HOLDING

    with reading() as session:

        def count(table: Any, *where: Any) -> int:
            query = select(func.count()).select_from(table).where(visible(session, table), *where)
            return session.scalar(query) or 0

        return {
            "hosts": count(Host),
            "vms": count(Vm, Vm.state.in_(HOLDING)),
            "open_operations": count(Operation, Operation.finished_at.is_(None)),
        }
