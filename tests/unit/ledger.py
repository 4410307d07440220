"""An inventory with machines that have a history, and bills issued of it: without hosts and without flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from reports.bill import bills
from reports.usage import read_events
from tests.flows.site import new_inventory
from vdc import catalog
from vdc.billing import Issued, claim_bills, read_site, record_bills
from vdc.documents import Party
from vdc.inventory import engine, read_session, write_session
from vdc.months import Month
from vdc.requests import BillRequest
from vdc.schema import Operation, Tenant, UsageEvent, Vm
from vdc.tariff import Tariff
from vdc.tariff_book import TariffBook

ACTOR = "ada"
LIST_PRICES = TariffBook.always(Tariff())
SELLER = Party("Example Datacenter", "Hauptstraße 5\n10115 Berlin", "DE1")


@dataclass(frozen=True)
class Ledger:
    """`url` is the inventory's."""

    url: str

    @classmethod
    def create(cls, directory: Path, *tenants: str, zone: str = "Europe/Madrid") -> Ledger:
        """With tenant `acme`, or these."""
        made = cls(new_inventory(f"sqlite:///{directory / 'inventory.db'}"))
        with write_session(made.url) as session:
            for name in tenants or ("acme",):
                catalog.create_tenant(session, name, time_zone=zone, actor=ACTOR)
        return made

    def copy(self, directory: Path) -> Ledger:
        """A copy, for a test that changes it. This one must be closed: nobody writes to it any more."""
        engine(self.url).dispose()
        copy = directory / "copy.db"
        copy.write_bytes(Path(self.url.removeprefix("sqlite:///")).read_bytes())
        return Ledger(f"sqlite:///{copy}")

    def write(self, *events: Sequence[Any], tenant: str = "acme") -> None:
        """Rows of an event frame, each written by an operation of its own that ended when it happened."""
        with write_session(self.url) as session:
            tenant_id = session.scalars(select(Tenant.id).where(Tenant.name == tenant)).one()
            for _, vm_id, machine, kind, at, vcpu, memory_mib, disk_mib, provider, price, *_ in events:
                size = {"vcpu": vcpu, "memory_mib": memory_mib}
                if session.get(Vm, vm_id) is None:
                    vm = Vm(id=vm_id, name=machine, tenant_id=tenant_id, created_at=at, spec={}, **size)
                    vm.desired = vm.state = "running"
                    session.add(vm)
                operation_id = self._journal(session, vm_id, machine, kind, at)
                row = UsageEvent(
                    operation_id=operation_id, vm_id=vm_id, tenant_id=tenant_id, kind=kind, **size
                )
                row.at, row.disk_mib, row.host = at, disk_mib, "h1"
                row.provider, row.hourly_price = provider, price
                session.add(row)

    @staticmethod
    def _journal(session: Session, vm_id: str, machine: str, kind: str, at: datetime) -> str:
        operation = Operation(
            kind={"created": "deploy", "terminated": "terminate"}.get(kind, "power"),
            object=f"vm/{machine}",
            object_id=vm_id,
            requested_by=ACTOR,
            flow_run_id=f"run-{kind}",
            spec={},
            owner="b/n/1/1",
            heartbeat_at=at,
            started_at=at,
            finished_at=at,
            outcome="done",
        )
        session.add(operation)
        session.flush()
        return operation.id

    def issue(self, month: str, tenant: str = "", now: datetime | None = None) -> list[Issued]:
        """As flows/bill does."""
        request = BillRequest(month=month, tenant=tenant)
        with write_session(self.url) as session:
            claim = claim_bills(session, request, actor=ACTOR, now=now or datetime(2027, 6, 1, tzinfo=UTC))
        if claim.claim is None:
            return list(claim.issued)
        drafts = []
        with read_session(self.url) as session:
            for billed in claim.tenants:
                events = read_events(session, [billed.tenant_id], billed.window(Month.parse(month)))
                drafts += bills(events, [billed], claim.month, LIST_PRICES, site=read_site(session))
        with write_session(self.url) as session:
            return record_bills(session, claim, [d for d in drafts if d.document["lines"]], ACTOR, SELLER)
