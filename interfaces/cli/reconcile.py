"""`vdc reconcile`: compare hosts and inventory, and converge."""

from __future__ import annotations

from typing import Any

import click

from interfaces.cli.output import json_option, print_json, print_line, print_table
from interfaces.cli.session import reading


@click.command()
@json_option
def reconcile(as_json: bool) -> None:
    """Finish what dead processes left, compare hosts and inventory, and converge."""
    from interfaces.cli.running import run_flow

    with reading():
        pass  # refuses where there is no inventory

    def load_flow() -> Any:
        from flows.reconcile import reconcile as flow

        return flow

    findings = run_flow(load_flow)
    if as_json:
        print_json(findings)
        return
    if not findings:
        print_line("Hosts and inventory agree.")
        return
    rows = [{"found": f.what, "object": f.object, "host": f.host, "action": f.action} for f in findings]
    print_table(rows, ("found", "object", "host", "action"))
