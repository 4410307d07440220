"""The `vdc` command: `vdc NOUN VERB ...`.

Conventions for a noun's file, `interfaces/cli/<noun>.py`:

- it exposes a click.Group named `group` (and has a line in NOUNS below, its help in the listing);
- it is imported only when its noun is used; Prefect, libvirt and pandas are imported inside the commands
  that need them, so that reading commands answer at once;
- a command that runs flows calls `use_prefect()` (interfaces/cli/engine.py) before it imports `flows`;
- what it lists or shows takes `--json` (`@json_option`) and prints by interfaces/cli/output.py;
- it raises `vdc.errors` and never exits by itself: interfaces/cli/errors.py makes sentence and exit code.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence

import click

from interfaces.cli.errors import guarded
from vdc.errors import Refused

NOUNS = {
    "host": "Hypervisor hosts",
    "datastore": "Places for images and disks",
    "image": "Disk images",
    "disk": "Disks that are attached to machines, or kept for later",
    "template": "Recipes of machines",
    "context": "What machines are told: users, keys, packages, files, start script",
    "secret": "What contexts name, and nobody is shown",
    "vnet": "Virtual networks and their leases",
    "tenant": "Tenants",
    "quota": "What tenants and users may use, and do",
    "user": "Who may do what: accounts and their tokens",
    "group": "Affinity groups of machines",
    "router": "Routers: the gateways of tenants' networks",
    "sg": "Security groups: what machines may be connected from and to",
    "cloud": "Clouds that take machines when our hosts are full",
    "vm": "Machines: deploy, list, show, terminate",
    "scale-test": "How fast machines are made and removed, against a bare loop",
    "burnin": "Random operations by several users, and whether the platform is sound afterwards",
    "bill": "What tenants owe: preview, month, list, show, verify, explain, credit",
    "report": "For administrators: capacity, tenants, unused, operations, benchmarks",
    "tariff": "What is charged, from when on, to whom",
    "operation": "What was done, by whom, with what outcome",
    "lab": "Real hypervisor hosts on this machine, to try things on",
}
"""Noun -> its help. The group is `group` in `interfaces.cli.<noun>` (or bears the noun's name)."""

COMMANDS = {
    "up": ("control", "Put the control plane into service: inventory, Prefect server"),
    "down": ("control", "Take the Prefect server out of service; machines run on"),
    "status": ("control", "Say what is in service"),
    "login": ("login", "Prove who you are; commands act for you from then on"),
    "logout": ("login", "Forget who you are"),
    "whoami": ("login", "Say for whom commands act"),
    "share": ("share", "Let a user or a tenant use an object"),
    "unshare": ("share", "Take that back"),
    "audit": ("audit", "Who did what to which object, when, with what outcome"),
    "reconcile": ("reconcile", "Compare hosts and inventory, and converge"),
    "usage": ("usage", "What tenants used in the running month, with a forecast to its end"),
}
"""Command -> (file that has a click.Command of that name, its help)."""


class LazyGroup(click.Group):
    """Imports a noun's file only when that noun is used; its help is known without."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in (*NOUNS, *COMMANDS) if importlib.util.find_spec(_module(name))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS and cmd_name not in COMMANDS:
            return None
        name = _module(cmd_name)
        if importlib.util.find_spec(name) is None:
            return None
        module = importlib.import_module(name)
        attributes = ("group", cmd_name) if cmd_name in NOUNS else (cmd_name,)
        for attribute in attributes:
            found = getattr(module, attribute, None)
            if isinstance(found, click.Command):
                return found
        raise LookupError(f"{name} has no click command named {' or '.join(attributes)}")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        there = self.list_commands(ctx)
        for title, entries in (
            ("Nouns", [(n, NOUNS[n]) for n in there if n in NOUNS]),
            ("Commands", [(n, COMMANDS[n][1]) for n in there if n in COMMANDS]),
        ):
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


def _module(name: str) -> str:
    return f"interfaces.cli.{COMMANDS[name][0] if name in COMMANDS else name.replace('-', '_')}"


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-v", "--verbose", is_flag=True, help="Show what Prefect and the drivers log.")
@click.version_option(package_name="vdc", prog_name="vdc")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """A virtual datacenter over KVM, libvirt and Prefect.

    Exit codes: 0 done, 1 the operation failed, 2 usage, 3 refused (nothing was touched).
    """
    ctx.obj = {"verbose": verbose}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the `vdc` script."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)

    def refused(error: Refused) -> None:
        from interfaces.cli.refusals import write_down

        write_down(cli, arguments, error)

    sys.exit(guarded(lambda: cli.main(arguments, prog_name="vdc", standalone_mode=False), arguments, refused))


if __name__ == "__main__":
    main()
