"""Issue the bills of a month that is over."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced, recorded
from tasks.billing import draft_bills, tariff_of
from tasks.environment import environment
from vdc.access import actor
from vdc.billing import Issued, claim_bills, record_bills
from vdc.requests import BillRequest


@flow(name="bill", flow_run_name="bill {request.label}", **flow_options())
def bill(request: BillRequest) -> list[Issued]:
    """Count what each tenant used, price it, number the bills and keep them; what is issued stays as it is.

    Returns a line for each tenant. Raises Refused where the month cannot be closed.
    """
    tariff = tariff_of(request.tariff)
    claim = claimed(claim_bills, request)
    issued = list(claim.issued)
    if claim.claim is not None:
        with fenced(claim.claim):
            telling.bill_plan(claim, tariff)
            drafts = draft_bills(claim, tariff)
        issued = recorded(record_bills, claim, drafts, actor(), environment().settings.seller)
    telling.bill_result(claim.month, issued)
    return issued
