"""What reconcile does about clouds."""

from __future__ import annotations

from datetime import datetime

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import registry
from tasks.batches import read, recorded
from tasks.converging import clean_clouds, finish_leaving
from tasks.environment import environment
from vdc import cloud_reconciliation
from vdc.access import actor
from vdc.cloud_reconciliation import CloudSeen
from vdc.errors import VdcError
from vdc.reconciliation import Finding


@task(name="observe-cloud", task_run_name="observe {name}", cache_policy=NO_CACHE, persist_result=False)
def observe_cloud(name: str, uri: str, site: str) -> CloudSeen:
    """The site's instances in one cloud; its error where it does not answer."""
    try:
        return CloudSeen(name, "", tuple(registry.cloud(uri, environment().access).read_instances(site)))
    except VdcError as error:
        return CloudSeen(name, str(error))


def converge_clouds(site: str, since: datetime) -> list[Finding]:
    """Look at every cloud, adopt, finish and clean up; returns a line for each thing that was found."""
    places = read(cloud_reconciliation.read_clouds)
    if not places:
        return []
    looking = [observe_cloud.submit(name, uri, site) for name, uri in places]
    seen = [future.result() for future in looking]
    differences = cloud_reconciliation.compare(read(cloud_reconciliation.read_known), seen)
    recorded(cloud_reconciliation.record_seen, seen, since)
    findings = [*differences.report]
    findings += recorded(cloud_reconciliation.adopt_states, differences.adopt, since, actor())
    findings += finish_leaving(differences.leaving, since)
    findings += clean_clouds(differences.leftover, since)
    return findings
