"""Tell when a part of a tenant's budget is used up."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import read, recorded
from tasks.budgets import emit, read_spent
from tasks.environment import environment
from vdc.access import check
from vdc.budgets import Alert, read_untold, record_crossings, record_told, thresholds


@flow(name="watch-budgets", flow_run_name="watch budgets", **flow_options())
def watch_budgets() -> list[Alert]:
    """Compare what each tenant's running month cost with its budget: an event for each part used up, once."""
    read(check, "site.watch-budgets")
    percents = thresholds(environment().settings.budget_alert_percent)
    recorded(record_crossings, read(read_spent), percents)
    alerts = read(read_untold)
    emit(alerts)
    recorded(record_told, alerts)
    telling.budget_result(alerts)
    return alerts
