"""The gateways of tenants' networks: made, told what they forward, made anew, removed."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, conclude, read
from tasks.environment import environment
from tasks.leaving import remove_machines
from tasks.releasing import make_machines
from tasks.routers import change_router, redeploy, tell_routers
from vdc.claims.routers import claim_create, claim_delete, claim_forward, claim_redeploy
from vdc.requests import (
    CreateRouterRequest,
    DeleteRouterRequest,
    ForwardPortRequest,
    RedeployRouterRequest,
    TellRouterRequest,
)
from vdc.routers import find_router


@flow(name="create-router", flow_run_name="create the router of {request.vnet}", **flow_options())
def create_router(request: CreateRouterRequest) -> str:
    """Claim the gateway's address, a public one and a machine's place; make the machine, as any other.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the machine
    could not be made: nothing is left of it then.
    """
    settings = environment().settings
    claim = claimed(
        claim_create, request, prices=settings.prices, time_servers=settings.time_server_addresses
    )
    telling.router_plan(request, claim)
    make_machines(claim.batch)
    return conclude(claim.batch)


@flow(
    name="forward-port",
    flow_run_name="{request.verb} port {request.port} of {request.vnet}",
    **flow_options(),
)
def forward_port(request: ForwardPortRequest) -> str:
    """Write down the forward, or that it is no more, and tell the router: it comes into force at once.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the router
    could not be told: reconcile tells it.
    """
    return change_router(claimed(claim_forward, request))


@flow(name="tell-router", flow_run_name="tell the router of {request.vnet}", **flow_options())
def tell_router(request: TellRouterRequest) -> None:
    """Tell the router what has changed in its network, such as a machine's name.

    What fails is in the journal, and reconcile tells it. Raises NotFound where there is no router.
    """
    router, _ = read(find_router, request.vnet)
    tell_routers([router.vnet_id])


@flow(name="redeploy-router", flow_run_name="redeploy the router of {request.vnet}", **flow_options())
def redeploy_router(request: RedeployRouterRequest) -> str:
    """Remove the router's domain and disk, and make them anew, of its template's present image.

    It has the addresses and knows what it knew: its machines notice a pause, and connections through it
    begin anew. Returns the operation's id. Raises Refused before anything is touched, OperationFailed where
    it could not be made: reconcile makes it.
    """
    servers = environment().settings.time_server_addresses
    batch = claimed(claim_redeploy, request, time_servers=servers)
    redeploy(batch)
    return conclude(batch)


@flow(name="delete-router", flow_run_name="delete the router of {request.vnet}", **flow_options())
def delete_router(request: DeleteRouterRequest) -> str:
    """Remove the router's machine, with its forwards, and give its public address back.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where something of
    it could not be removed: reconcile goes on.
    """
    batch = claimed(claim_delete, request)
    remove_machines(batch)
    return conclude(batch)
