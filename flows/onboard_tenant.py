"""Make a tenant what its file says."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, conclude, read
from tasks.environment import environment
from tasks.releasing import make_machines
from tasks.rendering import ready_renderer
from tasks.routers import change_router
from tasks.tenant_file import read_tenant_file
from tasks.welcome import check_sheets, write_sheets
from vdc.claims.deploy import claim_deploy
from vdc.claims.routers import claim_create, claim_forward
from vdc.onboarding import Onboarded, onboard
from vdc.requests import DeployRequest, OnboardTenantRequest
from vdc.welcome import read_welcome


@flow(name="onboard-tenant", flow_run_name="onboard {request.file}", **flow_options())
def onboard_tenant(request: OnboardTenantRequest) -> Onboarded:
    """Tenant, quota, users, private VLAN and template, in one transaction; then the router, the first
    machines, and what the router forwards to them; a welcome sheet.

    The file is named, not sent along: it holds a person's data. Run twice, it changes nothing. Raises
    Refused, or OperationFailed where a machine could not be made, or the router not told: run again, it goes
    on.
    """
    settings = environment().settings
    wanted = read_tenant_file(request.file)
    check_sheets(request.welcome)
    done = claimed(onboard, wanted, uplink=settings.tenant_uplink, vlans=settings.tenant_vlans)
    telling.onboard_result(done)
    if done.router:
        servers = settings.time_server_addresses
        batch = claimed(claim_create, done.router, prices=settings.prices, time_servers=servers).batch
        make_machines(batch)
        conclude(batch)
    contexts = {machine.name: machine.context for machine in wanted.machines}
    for name in done.machines:
        asked = DeployRequest(template=done.template, tenant=done.tenant, name=name)
        with ready_renderer(asked, contexts[name]) as renderer:
            claim = claimed(
                claim_deploy,
                asked,
                prices=settings.prices,
                context=contexts[name],
                renderer=renderer,
            )
        batch = claim.batch
        make_machines(batch)
        conclude(batch)
    for forward in done.forwards:
        change_router(claimed(claim_forward, forward))
    if request.welcome:
        write_sheets(read(read_welcome, done.tenant, settings), request.welcome)
    return done
