"""Running a flow over several machines, and the table that says what became of each."""

from __future__ import annotations

from typing import Any

from interfaces.cli.machines import Rows, machines
from interfaces.cli.output import print_json, print_table
from vdc.errors import OperationFailed

COLUMNS = ("name", "tenant", "state", "host", "vcpu", ("memory_mib", "MEM MIB"), "template", "address", "id")


NONE_YET = "No machine yet. Make one: vdc vm deploy --template NAME"


def run_batch(load_flow: Any, request: Any, as_json: bool, *, empty: str = NONE_YET) -> None:
    """Run a flow that returns a batch's operation, and print its machines; `empty` where there was none.

    Raises what the flow raises.
    """
    from interfaces.cli import listings
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading

    failed: OperationFailed | None = None
    try:
        operation_id = run_flow(load_flow, request)
    except OperationFailed as error:
        failed, operation_id = error, error.operation_id
    with reading() as session:
        children = listings.operations(session, parent_id=operation_id, limit=None)
    rows = machines(batch=operation_id, ended=True)
    became = {c["object_id"]: c for c in children}
    for row in rows:
        child = became[row["id"]]
        row |= {"error": child["error"], "how": (child["result"] or {}).get("how")}
    if failed is not None:
        failed.machines = rows
        if not as_json:
            print_machines(rows, as_json, error=True)
        raise failed
    print_machines(rows, as_json, empty=empty)


def print_machines(rows: Rows, as_json: bool, *, error: bool = False, empty: str = NONE_YET) -> None:
    if as_json:
        print_json(rows)
        return
    shown = [
        row | {"address": [a["address"] for a in row["addresses"]], "state": state_of(row)} for row in rows
    ]
    more = ["how"] if any(row.get("how") for row in rows) else []
    print_table(
        shown,
        (*COLUMNS, *more, *["error"] * error),
        empty=empty,
    )


def state_of(row: dict[str, Any]) -> str:
    """The state, and until when a machine is on hold."""
    until = row["hold_until"]
    return f"{row['state']} until {until:%Y-%m-%d %H:%M}Z" if until else str(row["state"])
