"""Bills as tasks: they read events and make drafts; the flow writes them down."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from reports.bill import bills
from reports.usage import read_events
from tasks.environment import environment
from vdc.billing import BillsClaim, Draft
from vdc.inventory import read_session
from vdc.months import Window
from vdc.tariff_book import TariffBook
from vdc.tariff_file import load_tariff
from vdc.tariffs import read_book


def tariff_of(file: str) -> TariffBook:
    """The tariff in `file`; where none is named those that are kept, else the list prices. Raises Invalid."""
    if file:
        return TariffBook.always(load_tariff(Path(file)))
    with read_session(environment().url) as session:
        return read_book(session, environment().settings.prices)


@task(name="draft-bills", task_run_name="draft bills", cache_policy=NO_CACHE, persist_result=False)
def draft_bills(claim: BillsClaim, tariff: TariffBook) -> list[Draft]:
    """A draft for each of the claim's tenants that used anything in the month."""
    windows = [tenant.window(claim.month) for tenant in claim.tenants]
    widest = Window(min(w.begin for w in windows), max(w.end for w in windows))
    with read_session(environment().url) as session:
        events = read_events(session, [t.tenant_id for t in claim.tenants], widest)
    drafts = bills(events, list(claim.tenants), claim.month, tariff, site=claim.site)
    return [draft for draft in drafts if draft.document["lines"]]
