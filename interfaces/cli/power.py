"""`vdc vm start`, `stop`, `reboot`, `reset`, `pause`, `resume`, `suspend`: machines switched on and off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from interfaces.cli.output import json_option
from interfaces.cli.plan_cost import prices, print_batch_plan
from vdc.access import actor

HELP = {
    "start": "Start machines that are stopped; one that is suspended goes on where it was.",
    "stop": "Ask guests to shut down; after the time-out power them off.",
    "reboot": "Ask guests to reboot; after the time-out press the reset button.",
    "reset": "Press the reset button, without asking the guest.",
    "pause": "Let machines stand still; they keep their memory, and are charged as if they ran.",
    "resume": "Let machines that are paused or suspended go on.",
    "suspend": "Keep the memory on the host's disk and power off; the place is kept.",
}
Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]

names_argument = click.argument("vms", nargs=-1, required=True, metavar="NAME...")
tenant_option = click.option("--tenant", default="", help="Whose machines, where a name is not unique.")
plan_option = click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")
timeout_option = click.option(
    "--timeout-s", type=float, default=60.0, show_default=True, help="Seconds that a guest has."
)


def _options(verb: str) -> list[Wrapper]:
    mine = [names_argument, tenant_option]
    if verb in ("stop", "reboot"):
        mine.append(timeout_option)
    if verb == "stop":
        mine.append(click.option("--hard", is_flag=True, help="Do not ask the guest: pull the plug."))
    return [*mine, plan_option, json_option]


def _command(verb: str) -> click.Command:
    def run(vms: tuple[str, ...], only_plan: bool, as_json: bool, **options: Any) -> None:
        from interfaces.cli.batch import run_batch
        from interfaces.cli.session import writing
        from vdc.claims.power import BECOMES, claim_power
        from vdc.plan_costs import power_costs
        from vdc.requests import PowerRequest

        request = PowerRequest(verb=verb, vms=list(vms), **options)  # type: ignore[arg-type]
        # What cannot be is refused at once, without a flow run.
        with writing(commit=False) as session:
            specs = [m.spec for m in claim_power(session, request, actor=actor()).machines]
            costs = power_costs(prices(session), verb, specs) if only_plan else []
        if only_plan:
            rows = [
                {"name": s.name, "tenant": s.tenant, "host": s.host.name, "becomes": BECOMES[verb]}
                for s in specs
            ]
            print_batch_plan(f"Would {verb}", rows, costs, as_json, columns=("becomes",))
            return

        def load_flow() -> Any:
            from flows.power import power as flow

            return flow

        run_batch(load_flow, request, as_json)

    for option in reversed(_options(verb)):
        run = option(run)
    return click.command(verb, help=HELP[verb])(run)


COMMANDS = [_command(verb) for verb in HELP]
