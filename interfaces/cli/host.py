"""`vdc host ...`: hypervisor hosts."""

from __future__ import annotations

from dataclasses import asdict
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
from interfaces.cli.plan_cost import cost_keys, prices, print_costs
from interfaces.cli.session import reading, writing
from vdc.access import actor
from vdc.errors import Invalid, NotFound, OperationFailed


@click.group()
def group() -> None:
    """Hypervisor hosts."""


@group.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Hosts, with what may be given to machines and what is."""
    with reading() as session:
        rows = listings.hosts(session)
    if as_json:
        print_json(rows)
        return
    print_table(
        rows,
        (
            "name",
            "state",
            "vms",
            "vcpu_used",
            "vcpu",
            ("memory_mib_used", "MEM USED MIB"),
            ("memory_mib", "MEM MIB"),
            "domain_type",
            "datastores",
        ),
        empty="No host yet. Enroll one: vdc host enroll NAME --uri qemu+ssh://root@HOST/system",
    )


@group.command()
@click.argument("name")
@json_option
def show(name: str, as_json: bool) -> None:
    """One host."""
    with reading() as session:
        rows = [row for row in listings.hosts(session) if row["name"] == name]
    if not rows:
        raise NotFound(f"There is no host {name!r}.")
    if as_json:
        print_json(rows[0])
        return
    print_fields(rows[0])


@group.command()
@click.argument("name")
@click.option("--uri", required=True, help="qemu+ssh://root@HOST/system, or simulated:///FILE?host=NAME.")
@click.option("--host-key", default="", help="SHA256:... fingerprint of its SSH key, to be accepted.")
@click.option("--domain-type", default="", help="kvm or qemu; empty: kvm where the host offers it.")
@click.option("--migration-address", default="", help="Where other hosts reach it; empty: as in the URI.")
@click.option(
    "--datastore", "datastores", multiple=True, help="Datastore it must mount (repeatable); none: all."
)
@click.option("--network", "networks", multiple=True, default=("vlan://ovsbr0",), show_default=True)
@click.option("--cpu-overcommit", type=float, default=1.0, show_default=True)
@click.option("--memory-overcommit", type=float, default=1.0, show_default=True)
@click.option("--reserved-memory-mib", type=int, default=1024, show_default=True, help="Kept for the host.")
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="For rank expressions (repeatable)."
)
@click.option(
    "--plan", "only_plan", is_flag=True, help="Check the host and say what would be; write nothing."
)
@json_option
def enroll(
    datastores: tuple[str, ...],
    networks: tuple[str, ...],
    labels: tuple[str, ...],
    only_plan: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Put a host into service, after looking at it."""
    from vdc.requests import EnrollHostRequest

    request = EnrollHostRequest(
        datastores=list(datastores) or None, networks=list(networks), labels=_labels(labels), **options
    )
    if only_plan:
        _plan(request, as_json)
        return
    from interfaces.cli.running import run_flow

    def load_flow() -> Any:
        from flows.enroll_host import enroll_host

        return enroll_host

    run_flow(load_flow, request)
    with reading() as session:
        row = next(r for r in listings.hosts(session) if r["name"] == request.name)
    if as_json:
        print_json(row)
        return
    print_line(
        f"Host {row['name']} is {row['state']}: {row['vcpu']:g} vCPU, {human_mib(row['memory_mib'])} for "
        f"machines, domain type {row['domain_type']}, {row['hypervisor_version']}, "
        f"datastores {', '.join(row['datastores']) or 'none'}, uplinks {', '.join(row['networks'])}."
    )


@group.command()
@click.argument("name")
def enable(name: str) -> None:
    """Let a host take new machines."""
    _set(name, True)


@group.command()
@click.argument("name")
def disable(name: str) -> None:
    """Let a host take no new machines; those it has run on."""
    _set(name, False)


@group.command()
@click.argument("name")
@click.option("--with-storage", is_flag=True, help="Take disks along that each host has for itself.")
@click.option("--plan", "only_plan", is_flag=True, help="Say what would go where; touch nothing.")
@json_option
def drain(name: str, with_storage: bool, only_plan: bool, as_json: bool) -> None:
    """Move all machines to other hosts; the host takes no new ones until it is enabled."""
    from interfaces.cli.batch import run_batch
    from tasks.abilities import abilities
    from vdc.claims.drain import claim_drain
    from vdc.plan_costs import moving_costs
    from vdc.requests import DrainRequest

    request = DrainRequest(host=name, with_storage=with_storage)
    with reading():
        can = abilities()
    with writing(commit=False) as session:
        claim = claim_drain(session, request, can, actor=actor())
        costs = moving_costs(prices(session), [move.spec for move in claim.moves]) if only_plan else []
    if only_plan:
        _print_drain_plan(name, claim, costs, as_json)
        return
    for one in claim.left:
        note(f"{one.name} stays: {one.why}")

    def load_flow() -> Any:
        from flows.drain import drain as flow

        return flow

    try:
        run_batch(load_flow, request, as_json, empty=f"Host {name} had no machine.")
    except OperationFailed:
        note(f"Host {name} takes no new machines; another `vdc host drain {name}` goes on.")
        raise
    note(f"Host {name} takes no new machines until `vdc host enable {name}`.")


def _print_drain_plan(name: str, claim: Any, costs: Any, as_json: bool) -> None:
    moves = [
        {
            "name": move.spec.name,
            "tenant": move.spec.tenant,
            "to": move.target.name,
            "how": "cold" if move.cold else "live",
        }
        for move in claim.moves
    ]
    if as_json:
        each = [move | cost_keys(cost) for move, cost in zip(moves, costs, strict=True)]
        print_json({"host": name, "moves": each, "left": claim.left})
        return
    print_line(f"Would disable host {name} and move {len(moves)} machine{'s' * (len(moves) != 1)}:")
    print_table(moves, ("name", "tenant", "to", "how"))
    print_costs(costs, [move["name"] for move in moves])
    if claim.left:
        print_line("What would stay, and why:")
        print_table([asdict(one) for one in claim.left], ("name", "state", "why"))
    note("Nothing was touched.")


def _set(name: str, enabled: bool) -> None:
    from vdc.claims.hosts import set_enabled

    with writing() as session:
        changed = set_enabled(session, name, enabled, actor=actor())
    print_line(f"Host {name} is {'' if changed else 'already '}{'enabled' if enabled else 'disabled'}.")


def _plan(request: Any, as_json: bool) -> None:
    from tasks.host_check import complete_uri, look_at_host
    from vdc.claims.hosts import check_enrolment, claim_enrolment

    request = request.model_copy(update={"uri": complete_uri(request.uri)})
    with reading() as session:
        datastores = check_enrolment(session, request)
    seen = look_at_host(request, datastores)
    with writing(commit=False) as session:
        claim_enrolment(session, request, seen, actor=actor())
    if as_json:
        print_json({"name": request.name, "facts": seen.facts, "datastores": dict(seen.storage)})
        return
    facts = seen.facts
    print_line(f"Would enroll {request.name}: {facts.hostname}, {facts.hypervisor_version}, {facts.arch},")
    print_line(
        f"  {facts.vcpu} CPUs, {human_mib(facts.memory_mib)}, domain types {', '.join(facts.domain_types)}"
    )
    for name, use in seen.storage.items():
        print_line(
            f"  datastore {name}: writable, {human_mib(use.free_mib)} of {human_mib(use.capacity_mib)} free"
        )
    for uri in request.networks:
        print_line(f"  uplink {uri}: there")


def _labels(given: tuple[str, ...]) -> dict[str, str | float]:
    labels: dict[str, str | float] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise Invalid(f"Label {text!r} is refused: give KEY=VALUE, the key as in a rank expression.")
        try:
            labels[key] = float(value)
        except ValueError:
            labels[key] = value
    return labels
