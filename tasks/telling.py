"""What flows tell in their artifacts: what was decided before the act (`*-plan`), and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.artifacts import bullets, publish, table
from vdc.billing import BillsClaim, Issued
from vdc.budgets import Alert
from vdc.claims.attach import Plug
from vdc.claims.batch import Batch
from vdc.claims.deploy import DeployClaim
from vdc.claims.drain import Drain
from vdc.claims.hosts import HostChecked
from vdc.claims.images import ImageClaim
from vdc.claims.migrate import Move
from vdc.claims.resize import WORDS, Resize, changes, size_of
from vdc.claims.snapshot import SnapshotClaim
from vdc.claims.snapshot_sweep import Swept
from vdc.metering import Metered
from vdc.model import MigrationResult, Size, VmSpec
from vdc.onboarding import Onboarded
from vdc.pricing import told
from vdc.reconciliation import Finding
from vdc.records import Concluded
from vdc.requests import (
    CreateRouterRequest,
    DeployRequest,
    DrainRequest,
    EnrollHostRequest,
    ImportImageRequest,
)
from vdc.tariff import PRICES
from vdc.tariff_book import TariffBook
from vdc.verification import Check

LISTED = "`vdc vm list --all`"


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _machines(specs: Sequence[VmSpec]) -> str:
    rows = [
        {
            "Machine": s.name,
            "Host": s.host.name,
            "vCPU": s.vcpu,
            "Memory MiB": s.memory_mib,
            "Disk MiB": sum(d.size_mib for d in s.disks),
            "Addresses": ", ".join(f"{n.address} on {n.vnet.name}" for n in s.nics),
        }
        for s in specs
    ]
    return table(rows, more=LISTED)


def deploy_plan(request: DeployRequest, claim: DeployClaim) -> None:
    specs = claim.claimed or tuple(m.spec for m in claim.batch.machines)
    machines = _machines(list(specs))
    what = f"{_many(len(specs), 'machine')} from template {request.template}"
    plan = claim.plan
    if plan is None:
        publish("deploy-plan", f"Going on with {what} for tenant {request.tenant}.", machines)
        return
    publish(
        "deploy-plan",
        f"{what} for tenant {request.tenant}: {told(plan.cost)}",
        machines,
        "**Quota left**: " + (", ".join(plan.quota_left) or "no limit"),
        "**Hosts**",
        bullets(plan.placement),
        *(["**Burst**", bullets(plan.burst)] if plan.burst else []),
    )


def router_plan(request: CreateRouterRequest, claim: DeployClaim) -> None:
    specs = claim.claimed or tuple(m.spec for m in claim.batch.machines)
    cost = f": {told(claim.plan.cost)}" if claim.plan else ""
    publish("router-plan", f"The router of network {request.vnet}{cost}", _machines(list(specs)))


def terminate_plan(batch: Batch) -> None:
    specs = [m.spec for m in batch.machines]
    publish("terminate-plan", f"{_many(len(specs), 'machine')} to be removed, with disks.", _machines(specs))


def batch_result(outcomes: Sequence[Concluded]) -> None:
    """The result of any batch: what became of each machine."""
    if not outcomes:
        return
    failed = sum(bool(o.error) for o in outcomes)
    rows = [
        {
            "Machine": o.name,
            "Host": o.host,
            "Outcome": o.outcome,
            "State": o.state,
            "After": f"{o.after_s:.1f} s",
            "Error": o.error,
        }
        for o in sorted(outcomes, key=lambda o: (not o.error, len(o.name), o.name))
    ]
    summary = f"{_many(len(rows) - failed, 'machine')} done" + (f", {failed} failed." if failed else ".")
    publish(f"{outcomes[0].kind}-result", summary, table(rows, more=LISTED))


def migrate_plan(move: Move) -> None:
    where = f"{move.spec.name} from host {move.spec.host.name} to {move.target.name}."
    publish("migrate-plan", where, bullets(move.said))


def migrate_result(move: Move, result: MigrationResult | None, failure: str) -> None:
    if result is None:
        publish("migrate-result", f"{move.spec.name} stayed on host {move.spec.host.name}: {failure}")
        return
    if move.cold:
        publish("migrate-result", f"{move.spec.name} is on host {move.target.name}, stopped.")
        return
    figures = (("Took", result.total_s), ("Stood still for", result.downtime_s))
    rows = [{"": what, "Time": "unknown" if s is None else f"{s:.3g} s"} for what, s in figures]
    publish("migrate-result", f"{move.spec.name} is on host {move.target.name}.", table(rows))


def snapshots_swept(swept: Sequence[Swept]) -> None:
    if not swept:
        return
    rows = [
        {"Machine": s.vm, "Tenant": s.tenant, "Snapshot": s.label, "Outcome": s.outcome, "Why": s.why}
        for s in swept
    ]
    removed = sum(s.outcome == "removed" for s in swept)
    publish("snapshots-swept", f"{_many(removed, 'snapshot')} of {len(swept)} removed.", table(rows))


def snapshot_result(asked: SnapshotClaim, said: str) -> None:
    """Of making, going back to, or removing a snapshot."""
    publish(f"{asked.act}-result", f"{asked.spec.name} on host {asked.spec.host.name}: {said}")


def resize_plan(asked: Resize) -> None:
    rows = [
        {"": WORDS[row["what"]], "From": row["from"], "To": row["to"]}
        for row in changes(size_of(asked.spec), asked.wanted, asked.wanted)
    ]
    left = "**Quota left**: " + (", ".join(asked.quota_left) or "no limit")
    publish("resize-plan", f"{asked.spec.name} on host {asked.spec.host.name}.", table(rows), left)


def resize_result(asked: Resize, has: Size | None, error: str = "", root: str = "") -> None:
    """`has`: what it has now, if that was seen."""
    came = [] if has is None else changes(size_of(asked.spec), asked.wanted, has)
    rows = [
        {"": WORDS[row["what"]], "From": row["from"], "To": row["to"], "When": row["when"]}
        for row in came
        if not error
    ]
    publish(
        "resize-result",
        f"{asked.spec.name} on host {asked.spec.host.name}. {error}".strip(),
        table(rows),
        root and f"Its root file system grows at its next boot: {root}.",
    )


def plug_plan(asked: Plug) -> None:
    left = "**Quota left**: " + (", ".join(asked.quota_left) or "no limit")
    verb = "to get" if asked.attaches else "to lose"
    what = f"{asked.spec.name} on host {asked.spec.host.name} is {verb} {asked.name}."
    publish(f"{asked.kind}-plan", what, left)


def plug_result(asked: Plug, said: str) -> None:
    """Of attaching and of detaching."""
    where = f"{asked.spec.name} on host {asked.spec.host.name}: {said}"
    publish(f"{asked.kind}-result", where)


def drain_plan(request: DrainRequest, claim: Drain) -> None:
    moves = [{"Machine": m.spec.name, "To": m.target.name, "Cold": m.cold or ""} for m in claim.moves]
    left = [{"Stays": one.name, "State": one.state, "Why": one.why} for one in claim.left]
    summary = f"{_many(len(moves), 'machine')} to leave host {request.host}, {len(left)} to stay."
    publish("drain-plan", summary, table(moves), table(left))


def enroll_result(request: EnrollHostRequest, seen: HostChecked) -> None:
    facts = seen.facts
    rows: list[tuple[str, object]] = [
        ("Host name", facts.hostname),
        ("CPUs", facts.vcpu),
        ("Memory MiB", facts.memory_mib),
        ("Processor", f"{facts.arch} {facts.cpu_model}"),
        ("Virtualisation", ", ".join(facts.domain_types)),
        ("Hypervisor", facts.hypervisor_version),
        ("Networks", ", ".join(request.networks)),
    ]
    rows += [(f"Free in {name}, MiB", use.free_mib) for name, use in seen.storage.items()]
    summary = f"Host {request.name} is in service."
    publish("enroll-host-result", summary, table([{"": what, "Seen": value} for what, value in rows]))


def import_plan(request: ImportImageRequest, image: ImageClaim) -> None:
    rows = [
        ("File", request.file),
        ("SHA-256", image.image.sha256),
        ("Virtual size, MiB", image.image.virtual_size_mib),
        ("Stored as", image.image.file),
    ]
    publish(
        "import-image-plan",
        f"Image {request.name} into datastore {request.datastore}, by host {image.target.host.name}.",
        table([{"": what, "Value": value} for what, value in rows]),
    )


def image_result(flow: str, said: str) -> None:
    """Of importing, saving, cloning or deleting an image."""
    publish(f"{flow}-result", said)


def onboard_result(done: Onboarded) -> None:
    summary = f"Tenant {done.tenant}: " + (
        f"{_many(len(done.changes), 'change')}." if done.changes else "nothing to change."
    )
    vlan = "" if done.vlan_id is None else f", VLAN {done.vlan_id}"
    has = f"Network {done.vnet}{vlan}; template {done.template}."
    publish("onboard-tenant-result", summary, bullets(done.changes), has)


def bill_plan(claim: BillsClaim, book: TariffBook) -> None:
    windows = [(tenant, tenant.window(claim.month)) for tenant in claim.tenants]
    pieces = [piece for t, window in windows for piece in book.pieces(t.name, window, t.time_zone)]
    rows = [
        {
            "Tenant": tenant.name,
            "Time zone": tenant.time_zone,
            "From (UTC)": f"{window.begin:%Y-%m-%d %H:%M}",
            "Until (UTC)": f"{window.end:%Y-%m-%d %H:%M}",
            "Hours": window.hours.normalize(),
            "Tariff": "; ".join(p.label for p in book.pieces(tenant.name, window, tenant.time_zone)),
        }
        for tenant, window in windows
    ]
    tariffs = {piece.label: piece.tariff for piece in pieces}
    prices = [
        {"Tariff": label, "Price": name, tariff.currency: getattr(tariff, name)}
        for label, tariff in tariffs.items()
        for name in PRICES
    ]
    summary = f"Month {claim.month}: {_many(len(rows), 'tenant')} to bill, {len(claim.issued)} billed before."
    publish("bill-plan", summary, table(rows), table(prices))


def bill_result(month: object, issued: Sequence[Issued]) -> None:
    rows = [
        {
            "Tenant": bill.tenant,
            "Bill": bill.number or "",
            "Total": f"{bill.total} {bill.currency}" if bill.number else "nothing used",
            "Issued": ("now" if bill.new else "before") if bill.number else "",
        }
        for bill in issued
    ]
    new = sum(bill.new for bill in issued)
    publish(
        "bill-result", f"Month {month}: {_many(new, 'bill')} issued.", table(rows, more="`vdc bill list`")
    )


def meter_result(metered: Metered) -> None:
    skipped = [{"Host": host, "Passed over": reason} for host, reason in metered.skipped.items()]
    publish("meter-result", f"{_many(metered.samples, 'machine')} sampled.", table(skipped))


def budget_result(alerts: Sequence[Alert]) -> None:
    rows = [
        {
            "Tenant": alert.tenant,
            "Month": alert.month,
            "Reached": f"{alert.percent}%",
            "Cost": f"{alert.cost} {alert.currency}",
            "Budget": f"{alert.budget} {alert.currency}",
        }
        for alert in alerts
    ]
    publish("budget-result", f"{_many(len(rows), 'alert')}.", table(rows))


def sweep_result(removed: int, retention_days: int) -> None:
    publish("sweep-result", f"{_many(removed, 'sample')} older than {retention_days} days removed.")


def verify_result(checks: Sequence[Check]) -> None:
    wrong = [(check.name, problem) for check in checks for problem in check.problems]
    summary = f"{_many(len(wrong), 'problem')} in {_many(len(checks), 'check')}."
    rows = [{"Check": check.name, "Result": check.result} for check in checks]
    found = [{"Check": name, "Wrong": problem} for name, problem in wrong]
    publish("verify-result", summary, table(rows), table(found))


def reconcile_result(findings: Sequence[Finding]) -> None:
    rows = [
        {"Found": f.what, "On": f.object, "Host": f.host, "What was done": f.action or "reported"}
        for f in findings
    ]
    summary = _many(len(rows), "finding") + "." if rows else "Hosts and inventory agree."
    publish("reconcile-result", summary, table(rows))
