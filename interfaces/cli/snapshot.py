"""`vdc vm snapshot ...`: states of a machine that it can be taken back to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from interfaces.cli.output import human_mib, json_option, note, print_json, print_line, print_table
from interfaces.cli.plan_cost import cost_column, cost_keys, prices, print_cost
from vdc.access import actor
from vdc.settings import load

if TYPE_CHECKING:
    from vdc.claims.snapshot import SnapshotClaim
    from vdc.pricing import Cost

Rows = list[dict[str, Any]]

COLUMNS = (
    ("tree", "SNAPSHOT"),
    "kind",
    ("size_mib", "MEMORY MIB"),
    "created_at",
    "expires_at",
    "current",
    "ready",
)

_tenant = click.option("--tenant", default="", help="Whose machine, where the name is not unique.")
_plan = click.option("--plan", "only_plan", is_flag=True, help="Say what would happen; touch nothing.")


@click.group("snapshot")
def group() -> None:
    """Snapshots of a machine: create, list, revert, delete."""


@group.command()
@click.argument("name")
@click.option("--label", default="", help="Name of the snapshot; none given: snap-1, snap-2, ...")
@click.option("--memory", is_flag=True, help="Memory and disks; the machine must run.")
@click.option("--disk-only", is_flag=True, help="Disks alone, as after a power cut.")
@click.option("--keep-days", type=int, help="Remove it so many days after; none given: as long as it may.")
@_tenant
@_plan
@json_option
def create(
    name: str,
    label: str,
    memory: bool,
    disk_only: bool,
    keep_days: int | None,
    tenant: str,
    only_plan: bool,
    as_json: bool,
) -> None:
    """Keep the present state: with memory if the machine runs, unless told otherwise."""
    from interfaces.cli import listings
    from interfaces.cli.session import writing
    from vdc.claims.snapshot import claim_snapshot
    from vdc.plan_costs import snapshot_cost
    from vdc.requests import SnapshotRequest

    if memory and disk_only:
        raise click.UsageError("Either --memory or --disk-only, not both.")
    kind = "memory" if memory else "disk" if disk_only else "auto"
    request = SnapshotRequest(vm=name, tenant=tenant, label=label, kind=kind, keep_days=keep_days)
    can, limits = _abilities(), (load().max_snapshots, load().snapshot_days)
    with writing(commit=False) as session:
        asked = claim_snapshot(session, request, can, *limits, actor=actor())
        cost = snapshot_cost(prices(session), asked)
        expires_at = listings.expiry(session, asked.snapshot.snapshot_id)
    if only_plan:
        lines = [f"Would keep the state of {asked.spec.name} as {asked.label}: {_what(asked.snapshot.kind)}."]
        if asked.snapshot.kind == "memory":
            size = human_mib(asked.spec.memory_mib)
            lines.append(f"The machine stands still while its memory is written, at most {size}.")
        if expires_at:
            lines.append(f"It would be kept until {expires_at:%Y-%m-%d %H:%MZ}.")
        _print_plan(asked, lines, cost, as_json, expires_at=expires_at)
        return

    def load_flow() -> Any:
        from flows.snapshot import snapshot as flow

        return flow

    def said(told: dict[str, Any]) -> str:
        size = f", {human_mib(told['size_mib'])}" if told["size_mib"] else ""
        return f"{asked.spec.name} can be taken back to {told['label']} ({_what(told['kind'])}{size})."

    _run(load_flow, request, asked, said, as_json)


@group.command("list")
@click.argument("name")
@_tenant
@json_option
def list_(name: str, tenant: str, as_json: bool) -> None:
    """A machine's snapshots, as a tree: below each one those that were made after it."""
    from interfaces.cli import listings
    from interfaces.cli.session import reading
    from vdc.claims.terminate import find_vm

    with reading() as session:
        rows = listings.snapshots(session, find_vm(session, name, tenant).id)
    if as_json:
        print_json(rows)
        return
    print_table(tree(rows), COLUMNS, empty=f"No snapshot yet. Make one: vdc vm snapshot create {name}")


@group.command()
@click.argument("name")
@click.argument("label")
@_tenant
@_plan
@json_option
def revert(name: str, label: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Take a machine back to a snapshot: what came after is lost, unless it was kept too."""
    from interfaces.cli.session import writing
    from vdc.claims.snapshot import claim_revert
    from vdc.plan_costs import snapshot_cost
    from vdc.requests import RevertRequest

    request = RevertRequest(vm=name, label=label, tenant=tenant)
    can = _abilities()
    with writing(commit=False) as session:
        asked = claim_revert(session, request, can, actor=actor())
        cost = snapshot_cost(prices(session), asked)
    if only_plan:
        lines = [
            f"Would take {asked.spec.name} back to {asked.label} ({_what(asked.snapshot.kind)}).",
            _how(asked),
            "What it wrote since then is lost, unless another snapshot keeps it.",
        ]
        _print_plan(asked, lines, cost, as_json, state=asked.was, becomes=asked.becomes)
        return

    def load_flow() -> Any:
        from flows.snapshot import revert as flow

        return flow

    def said(told: dict[str, Any]) -> str:
        return f"{asked.spec.name} is back at {told['label']}, and {told['state']}."

    _run(load_flow, request, asked, said, as_json)


@group.command()
@click.argument("name")
@click.argument("label")
@_tenant
@_plan
@json_option
def delete(name: str, label: str, tenant: str, only_plan: bool, as_json: bool) -> None:
    """Forget a snapshot; the machine and its other snapshots stay as they are."""
    from interfaces.cli.session import writing
    from vdc.claims.snapshot import claim_delete
    from vdc.plan_costs import snapshot_cost
    from vdc.requests import DeleteSnapshotRequest

    request = DeleteSnapshotRequest(vm=name, label=label, tenant=tenant)
    with writing(commit=False) as session:
        asked = claim_delete(session, request, actor=actor())
        cost = snapshot_cost(prices(session), asked)
    if only_plan:
        what = f"snapshot {asked.label} of {asked.spec.name} ({_what(asked.snapshot.kind)})"
        line = f"Would delete {what}: the machine can no longer be taken back there."
        _print_plan(asked, [line], cost, as_json)
        return

    def load_flow() -> Any:
        from flows.snapshot import delete_snapshot as flow

        return flow

    def said(told: dict[str, Any]) -> str:
        return f"Snapshot {told['label']} of {asked.spec.name} is gone."

    _run(load_flow, request, asked, said, as_json)


@group.command()
@click.argument("name")
@click.argument("label")
@click.option("--days", type=int, help="Remove it so many days after it was made.")
@click.option("--always", is_flag=True, help="As long as it may be kept.")
@_tenant
@json_option
def keep(name: str, label: str, days: int | None, always: bool, tenant: str, as_json: bool) -> None:
    """Say anew how long a snapshot is kept."""
    from interfaces.cli import listings
    from interfaces.cli.session import writing
    from vdc.claims.snapshot_sweep import keep as keep_snapshot

    if (days is None) is not always:
        raise click.UsageError("Say how long: either --days or --always.")
    with writing() as session:
        row = keep_snapshot(session, name, label, days, load().snapshot_days, tenant, actor=actor())
        expires_at = listings.expiry(session, row.id)
    if as_json:
        print_json({"name": name, "label": label, "expires_at": expires_at})
        return
    until = f"until {expires_at:%Y-%m-%d %H:%MZ}" if expires_at else "until somebody deletes it"
    print_line(f"Snapshot {label} of {name} is kept {until}.")


@group.command()
@_plan
@json_option
def sweep(only_plan: bool, as_json: bool) -> None:
    """Delete the snapshots that are too old, of all machines; a schedule does it every day."""
    from dataclasses import asdict

    from interfaces.cli.session import reading
    from vdc.access import check
    from vdc.claims.snapshot_sweep import read_due
    from vdc.plan_costs import due_costs
    from vdc.schema import utc_now

    with reading() as session:
        check(session, "site.sweep-snapshots")
        due = read_due(session, load().snapshot_days, utc_now())
        costs = due_costs(prices(session), due) if only_plan else []
    if only_plan:
        _print_due([asdict(one) for one in due], costs, as_json)
        return
    from interfaces.cli.running import run_flow

    def load_flow() -> Any:
        from flows.sweep_snapshots import sweep_snapshots as flow

        return flow

    rows = [asdict(one) for one in run_flow(load_flow)]
    if as_json:
        print_json(rows)
        return
    print_table(rows, ("vm", "tenant", "label", "outcome", "why"), empty=_NONE_DUE)


_NONE_DUE = "No snapshot is older than it may become."


def _print_due(rows: Rows, costs: list[Cost], as_json: bool) -> None:
    if as_json:
        print_json([row | cost_keys(cost) for row, cost in zip(rows, costs, strict=True)])
        return
    shown = [row | cost_column(cost) for row, cost in zip(rows, costs, strict=True)]
    columns = ("vm", "tenant", ("label", "SNAPSHOT"), "size_mib", "created_at", "due_at", "why", "a_month")
    print_table(shown, columns, empty=_NONE_DUE)
    note("Nothing was touched.")


def tree(rows: Rows) -> Rows:
    """Snapshots with `tree`: the label behind its branch, each below the one it was made after."""
    children: dict[str | None, Rows] = {}
    known = {row["id"] for row in rows}
    for row in rows:
        children.setdefault(row["parent_id"] if row["parent_id"] in known else None, []).append(row)
    drawn: Rows = []

    def draw(parent: str | None, before: str) -> None:
        below = children.get(parent, [])
        for row in below:
            last = row is below[-1]
            branch, indent = ("└─ ", "   ") if last else ("├─ ", "│  ")
            if parent is None:
                branch = indent = ""
            drawn.append(row | {"tree": before + branch + row["label"]})
            draw(row["id"], before + indent)

    draw(None, "")
    return drawn


def _abilities() -> Any:
    """Read by each command that asks a driver for something."""
    from interfaces.cli.session import reading
    from tasks.abilities import abilities

    with reading():
        return abilities()


def _what(kind: str) -> str:
    return "memory and disks" if kind == "memory" else "disks alone"


def _how(asked: SnapshotClaim) -> str:
    """What a machine goes through that is taken back."""
    if asked.snapshot.kind == "memory":
        return f"It is {asked.was}: it will be running, going on from the memory that was kept."
    if asked.was == "stopped":
        return "It is stopped, and stays so."
    return f"It is {asked.was}: it is powered off hard, and started again ({asked.becomes})."


def _print_plan(asked: SnapshotClaim, lines: list[str], cost: Cost, as_json: bool, **more: object) -> None:
    if as_json:
        plan = {"name": asked.spec.name, "label": asked.label, "kind": asked.snapshot.kind}
        print_json(plan | {"host": asked.spec.host.name} | more | cost_keys(cost))
        return
    for line in lines:
        print_line(line)
    print_cost(cost)
    note("Nothing was touched.")


def _run(
    load_flow: Callable[[], Any],
    request: Any,
    asked: SnapshotClaim,
    said: Callable[[dict[str, Any]], str],
    as_json: bool,
) -> None:
    from interfaces.cli.running import run_flow
    from interfaces.cli.session import reading
    from vdc.schema import Operation

    operation_id = run_flow(load_flow, request)
    with reading() as session:
        told = session.get_one(Operation, operation_id).result or {}
    if as_json:
        print_json({"name": asked.spec.name, "operation_id": operation_id} | told)
        return
    print_line(said(told))
