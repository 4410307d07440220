"""Hosts as tasks."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.host_check import look_at_host
from vdc.claims.hosts import HostChecked
from vdc.requests import EnrollHostRequest


@task(name="check-host", task_run_name="check {request.name}", cache_policy=NO_CACHE, persist_result=False)
def check_host(request: EnrollHostRequest, datastores: list[tuple[str, str]]) -> HostChecked:
    """See tasks.host_check. Not retried: what it finds is the answer."""
    return look_at_host(request, datastores)
