"""Alerts of budgets reach Prefect, once; what it did not take is told later."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select, update

from tests.flows import run
from tests.flows.site import ACTOR, Site
from vdc.customers import change_customer
from vdc.errors import Unready
from vdc.inventory import read_session, write_session
from vdc.schema import BudgetAlert, UsageEvent
from vdc.settings import Settings

pytestmark = pytest.mark.prefect


def test_an_event_for_each_part_once(
    site: Site, prefect_client: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server keeps no events (docs/prefect.md): what it answered is seen as it passes."""
    import httpx

    run.deploy(name="web", vcpu=1, memory_mib=1024, disk_mib=1024)
    with write_session(site.url) as session:
        change_customer(session, "default", {"monthly_budget": Decimal("0")}, actor=ACTOR)
        # Some hours before now, or since the month began: something was spent.
        first = session.scalars(select(UsageEvent.at).order_by(UsageEvent.at)).first()
        assert first is not None
        session.execute(update(UsageEvent).values(at=first.replace(year=first.year - 1)))

    post, sent, up = httpx.Client.post, [], []

    def seen(client: httpx.Client, url: Any, **options: Any) -> httpx.Response:
        if str(url) != "/events":
            return post(client, url, **options)
        if not up:
            raise httpx.ConnectError("refused")
        answer = post(client, url, **options)
        sent.extend((answer.status_code, event) for event in options["json"])
        return answer

    monkeypatch.setattr(httpx.Client, "post", seen)
    with pytest.raises(Unready, match="did not take alerts of budgets"):
        run.watch_budgets()
    up.append(True)
    assert [alert.percent for alert in run.watch_budgets()] == [50, 80, 100]
    assert run.watch_budgets() == []
    assert [(code, e["event"], e["payload"]["percent"]) for code, e in sent] == [
        (204, "vdc.budget.reached", percent) for percent in (50, 80, 100)
    ]
    assert {event["resource"]["prefect.resource.id"] for _, event in sent} == {"vdc.tenant.default"}
    with read_session(site.url) as session:
        assert all(session.scalars(select(BudgetAlert.told_at)))
        assert {event["id"] for _, event in sent} == set(session.scalars(select(BudgetAlert.event_id)))
