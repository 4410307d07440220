"""Issuing bills: which months may be, what is there already, and writing down those that are new."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from vdc import operations
from vdc.access import asking, visible
from vdc.billed import Billed, Draft
from vdc.customers import addressed
from vdc.documents import Party, canonical, sha256
from vdc.errors import Forbidden, InvalidState, NotFound, VdcError
from vdc.months import Month
from vdc.names import find
from vdc.operations import Claim, Opening
from vdc.requests import BillRequest
from vdc.schema import Bill, Operation, Site, Tenant, Vm, utc_now

NOBODY = Party()


@dataclass(frozen=True, slots=True)
class Issued:
    """What became of one tenant's month. Without a number there was nothing to bill.

    `new`: this call issued it; else it had been, and is the same as then.
    """

    tenant: str
    month: str
    number: int | None = None
    total: Decimal | None = None
    currency: str = ""
    sha256: str = ""
    new: bool = False


@dataclass(frozen=True, slots=True)
class BillsClaim:
    """The right to issue a month's bills to `tenants`; without a claim there is none left to issue."""

    claim: Claim | None
    site: str
    month: Month
    tenants: tuple[Billed, ...]
    issued: tuple[Issued, ...]


def read_tenants(session: Session, name: str = "") -> list[Billed]:
    """The tenant of that name, or all whose bills who asks may see. Raises NotFound or Forbidden."""
    query = select(Tenant).where(visible(session, Tenant, "bill.see")).order_by(Tenant.name)
    if name:
        query = query.where(Tenant.id == find(session, Tenant, "tenant", name).id)
    rows = session.scalars(query).all()
    if not rows:
        raise Forbidden(f"{asking(session).name} ({asking(session).role}) may not see bills.")
    return [Billed(t.id, t.name, t.time_zone, t.created_at) for t in rows]


def read_site(session: Session) -> str:
    return session.scalars(select(Site.id)).one()


def read_issued(session: Session, *, tenant: str = "", month: str = "") -> list[Issued]:
    """Bills by number; of one tenant or month where named."""
    query = select(Tenant.name, Bill.month, Bill.number, Bill.total, Bill.currency, Bill.sha256)
    query = query.join(Tenant, Tenant.id == Bill.tenant_id).order_by(Bill.number)
    query = query.where(visible(session, Bill))
    if tenant:
        query = query.where(Tenant.name == tenant)
    if month:
        query = query.where(Bill.month == month)
    return [Issued(*row) for row in session.execute(query)]


def read_bill(session: Session, number: int) -> tuple[Bill, str]:
    """A bill and its tenant's name. Raises NotFound, and VdcError where it is not what was issued."""
    row = session.execute(
        select(Bill, Tenant.name)
        .join(Tenant, Tenant.id == Bill.tenant_id)
        .where(Bill.number == number, visible(session, Bill))
    ).first()
    if row is None:
        last = session.scalar(select(func.max(Bill.number)).where(visible(session, Bill)))
        raise NotFound(f"There is no bill {number}. " + (f"The last is {last}." if last else "None is yet."))
    bill, tenant = row
    if sha256(bill.document) != bill.sha256:
        raise VdcError(f"Bill {number} is not what was issued: its checksum is not {bill.sha256}.")
    return bill, tenant


def claim_bills(
    session: Session,
    request: BillRequest,
    *,
    actor: str,
    flow_run_id: str | None = None,
    now: datetime | None = None,
) -> BillsClaim:
    """Open the operation that issues a month's bills, to one tenant or to all.

    Raises Refused: Invalid for what is no month, NotFound for an unknown tenant, InvalidState for a month
    that is not over or in which something is still under way, Conflict while another process issues it.
    """
    now = now or utc_now()
    month = Month.parse(request.month) if request.month else Month.of(now, "UTC").preceding
    tenants = read_tenants(session, request.tenant)
    for tenant in tenants:
        _check_closed(session, tenant, month, now)
    there = {bill.tenant: bill for bill in read_issued(session, month=str(month))}
    issued = tuple(there[t.name] for t in tenants if t.name in there)
    missing = tuple(t for t in tenants if t.name not in there)
    claim = _opened(session, request, month, actor, flow_run_id) if missing else None
    return BillsClaim(claim, read_site(session), month, missing, issued)


def _opened(
    session: Session, request: BillRequest, month: Month, actor: str, flow_run_id: str | None
) -> Claim:
    mine = select(Operation).where(
        Operation.open_key == f"month:{month}", Operation.flow_run_id == flow_run_id
    )
    repeated = session.scalars(mine).first() if flow_run_id else None
    if repeated is not None:
        return operations.take_over(session, repeated)
    opening = Opening("bill", "month", str(month), str(month), request.model_dump(mode="json"))
    return operations.open_one(session, opening, actor=actor, flow_run_id=flow_run_id)


def _check_closed(session: Session, tenant: Billed, month: Month, now: datetime) -> None:
    window = tenant.window(month)
    if now < window.begin:
        raise InvalidState(f"Month {month} has not begun for tenant {tenant.name} ({tenant.time_zone}).")
    if now < window.end:
        raise InvalidState(
            f"Month {month} is not over for tenant {tenant.name}: it ends {window.end:%Y-%m-%d %H:%M} UTC. "
            "Look at it with `vdc bill preview`."
        )
    # What began in the month may yet be recorded as having happened in it.
    under_way = session.scalars(
        select(Operation)
        .join(Vm, Vm.id == Operation.object_id)
        .where(Vm.tenant_id == tenant.tenant_id, Operation.finished_at.is_(None))
        .where(Operation.started_at < window.end)
    ).first()
    if under_way is not None:
        raise InvalidState(
            f"Month {month} of tenant {tenant.name} cannot be closed: {under_way.kind} of {under_way.object} "
            "began in it and is not over. Wait for it; if its process died, `vdc reconcile` finishes it."
        )


def record_bills(
    session: Session, claim: BillsClaim, drafts: Sequence[Draft], issued_by: str, seller: Party = NOBODY
) -> list[Issued]:
    """Number the drafts and write them down, all or none; a tenant without a draft had nothing to bill.

    Raises Superseded where another process took the operation over.
    """
    assert claim.claim is not None, "there is nothing to issue"
    operations.close(session, claim.claim)
    by_tenant = {draft.tenant_id: draft for draft in drafts}
    number = session.scalar(select(func.max(Bill.number))) or 0
    made = []
    for tenant in claim.tenants:
        draft = by_tenant.get(tenant.tenant_id)
        if draft is None:
            made.append(Issued(tenant.name, str(claim.month)))
            continue
        number += 1
        made.append(_written(session, claim, tenant, draft, number, issued_by, seller))
    return [*claim.issued, *made]


def _written(
    session: Session,
    claim: BillsClaim,
    tenant: Billed,
    draft: Draft,
    number: int,
    issued_by: str,
    seller: Party,
) -> Issued:
    assert claim.claim is not None
    now = utc_now()
    final = {"number": number, "issued_at": now.isoformat(timespec="seconds"), "issued_by": issued_by}
    sides = addressed(draft.document, session.get_one(Tenant, tenant.tenant_id), seller)
    document = canonical(sides | final)
    bill = Bill(
        number=number,
        tenant_id=tenant.tenant_id,
        month=str(claim.month),
        total=draft.total,
        currency=draft.currency,
        document=document,
        sha256=sha256(document),
        issued_at=now,
        issued_by=issued_by,
        operation_id=claim.claim.operation_id,
    )
    session.add(bill)
    return Issued(tenant.name, bill.month, number, bill.total, bill.currency, bill.sha256, new=True)
