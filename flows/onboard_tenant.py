"""Make a tenant what its file says."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed
from tasks.environment import environment
from tasks.tenant_file import read_tenant_file
from vdc.onboarding import Onboarded, onboard
from vdc.requests import OnboardTenantRequest


@flow(name="onboard-tenant", flow_run_name="onboard {request.file}", **flow_options())
def onboard_tenant(request: OnboardTenantRequest) -> Onboarded:
    """Tenant, quota, first user, private VLAN and template, in one transaction.

    The file is named, not sent along: it holds a person's data. Run twice, it changes nothing. Raises
    Refused.
    """
    settings = environment().settings
    wanted = read_tenant_file(request.file)
    done = claimed(onboard, wanted, uplink=settings.tenant_uplink, vlans=settings.tenant_vlans)
    telling.onboard_result(done)
    return done
