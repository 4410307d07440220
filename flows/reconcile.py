"""Finish what dead processes left, compare hosts and inventory, and converge."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, fenced, read, recorded
from tasks.clouds import converge_clouds
from tasks.converging import (
    clean,
    clean_copies,
    clean_ports,
    finish,
    finish_devices,
    finish_leaving,
    finish_resizes,
    guard,
    observe,
    recover,
    release_due,
    remove_unfinished_images,
    remove_unfinished_snapshots,
    remove_unfinished_volumes,
    settle,
    switch_unfinished_images,
)
from tasks.environment import environment
from tasks.filtering import follow_groups
from tasks.peers import converge_peers
from tasks.routers import converge_routers
from vdc import reconciliation
from vdc.access import actor
from vdc.operations import close
from vdc.reconciliation import Finding
from vdc.schema import utc_now


@flow(name="reconcile", flow_run_name="reconcile", **flow_options())
def reconcile() -> list[Finding]:
    """Returns a line for each thing that was found, with what was done about it.

    Raises Conflict while another reconcile is at work.
    """
    lease_s = environment().settings.operation_lease_s
    site = claimed(reconciliation.claim_site, lease_s=lease_s)
    with fenced(site):
        dead = recorded(reconciliation.take_over_dead, lease_s)
        with fenced(*dead.claims) as fence:
            findings = finish(dead, fence)
        since = utc_now()
        places = read(reconciliation.read_places)
        world = observe(places)
        known = read(reconciliation.read_known)
        volumes = read(reconciliation.read_volume_files)
        differences = reconciliation.compare(places.site, known, world, volumes)
        recorded(reconciliation.record_seen, world, differences, since, actor())
        findings += differences.report
        findings += recorded(reconciliation.adopt_states, differences.adopt, since, actor())
        findings += recover(differences.recover, since)
        findings += finish_leaving(differences.leaving, since)
        findings += settle(differences.settle, since)
        findings += remove_unfinished_snapshots(world, since)
        findings += finish_resizes(world, since)
        findings += finish_devices(world, since)
        findings += remove_unfinished_volumes(since)
        findings += remove_unfinished_images(since)
        findings += switch_unfinished_images(since)
        findings += clean(differences.leftover, [host for host, _ in places.hosts], since)
        findings += clean_copies(differences.copies, [host for host, _ in places.hosts], since)
        findings += clean_ports(differences.strays, [host for host, _ in places.hosts], since)
        findings += guard(differences.unguarded, since)
        findings += converge_peers(world)
        follow_groups()
        findings += release_due(since)
        findings += converge_routers()
        findings += converge_clouds(places.site, since)
    recorded(close, site)
    telling.reconcile_result(findings)
    return findings
