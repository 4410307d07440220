"""`vdc vm hold`, `release`, `rename`, `give`, `protect`, `unprotect`: what is said in the inventory."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, print_json, print_line
from interfaces.cli.power import names_argument, plan_option, tenant_option
from vdc.access import actor


def _say(changed: dict[str, str], said: str, as_json: bool) -> None:
    if as_json:
        from interfaces.cli.machines import machines

        print_json([row for row in machines() if row["id"] in changed])
        return
    for name in changed.values():
        print_line(f"{name} {said}.")


@click.command()
@names_argument
@click.option("--until", default="", metavar="TIME", help="Release them then: 2026-12-01T06:00Z.")
@tenant_option
@json_option
def hold(vms: tuple[str, ...], until: str, tenant: str, as_json: bool) -> None:
    """Let nothing start machines that are stopped; or say anew until when they are on hold."""
    from interfaces.cli.session import writing
    from vdc.claims.hold import hold as hold_machines
    from vdc.claims.hold import instant
    from vdc.requests import MachinesRequest

    at = instant(until) if until else None
    with writing() as session:
        held = hold_machines(session, MachinesRequest(vms=list(vms), tenant=tenant), at, actor=actor())
    _say(held, f"is on hold{f' until {at:%Y-%m-%d %H:%M %Z}' if at else ''}", as_json)


@click.command()
@names_argument
@tenant_option
@plan_option
@json_option
def release(vms: tuple[str, ...], tenant: str, only_plan: bool, as_json: bool) -> None:
    """Make machines that were deployed on hold; those that were stopped may be started again."""
    from interfaces.cli.batch import run_batch
    from interfaces.cli.session import writing
    from vdc.claims.hold import claim_release
    from vdc.requests import MachinesRequest

    request = MachinesRequest(vms=list(vms), tenant=tenant)
    with writing(commit=False) as session:
        claim = claim_release(session, request, actor=actor())
    if only_plan:
        made = [{"name": m.spec.name, "host": m.spec.host.name} for m in claim.batch.machines]
        _print_plan(made, list(claim.stopped), as_json)
        return

    def load_flow() -> Any:
        from flows.release import release as flow

        return flow

    run_batch(load_flow, request, as_json)


def _print_plan(made: list[dict[str, str]], stopped: list[str], as_json: bool) -> None:
    if as_json:
        rows: list[dict[str, str | None]] = [row | {"becomes": "deployed"} for row in made]
        print_json(rows + [{"name": name, "host": None, "becomes": "stopped"} for name in stopped])
        return
    for row in made:
        print_line(f"Would make {row['name']} on {row['host']}.")
    for name in stopped:
        print_line(f"Would leave {name} stopped: it may be started again.")


@click.command()
@click.argument("name")
@click.argument("new")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@json_option
def rename(name: str, new: str, tenant: str, as_json: bool) -> None:
    """Call machine NAME from now on NEW. The guest keeps its hostname."""
    from interfaces.cli.session import writing
    from vdc.claims.marks import rename as rename_machine

    with writing() as session:
        rename_machine(session, name, new, tenant, actor=actor())
    if as_json:
        print_json({"from": name, "to": new})
        return
    print_line(f"{name} is called {new} now; its guest keeps its hostname.")


@click.command()
@click.argument("name")
@click.argument("to")
@click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
@json_option
def give(name: str, to: str, tenant: str, as_json: bool) -> None:
    """Make machine NAME tenant TO's, who pays for it from now on. On its host nothing changes."""
    from interfaces.cli.session import writing
    from vdc.claims.giving import give as give_machine

    with writing() as session:
        give_machine(session, name, to, tenant, actor=actor())
    if as_json:
        print_json({"name": name, "to": to})
        return
    print_line(f"{name} is tenant {to}'s now, who pays for it from now on.")


def _protecting(verb: str, protected: bool, text: str, said: str) -> click.Command:
    @click.command(verb, help=text)
    @names_argument
    @tenant_option
    @json_option
    def command(vms: tuple[str, ...], tenant: str, as_json: bool) -> None:
        from interfaces.cli.session import writing
        from vdc.claims.marks import protect
        from vdc.requests import MachinesRequest

        request = MachinesRequest(vms=list(vms), tenant=tenant)
        with writing() as session:
            changed = protect(session, request, protected=protected, actor=actor())
        _say(changed, said, as_json)

    return command


COMMANDS = [
    hold,
    release,
    rename,
    give,
    _protecting("protect", True, "Refuse to terminate machines.", "is protected against deletion"),
    _protecting("unprotect", False, "Let machines be terminated again.", "may be deleted"),
]
