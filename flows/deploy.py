"""Make machines from a template."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.abilities import abilities
from tasks.batches import claimed, conclude, read
from tasks.cloud_check import ask_clouds
from tasks.context_file import read_context_file
from tasks.environment import environment
from tasks.releasing import make_machines
from tasks.rendering import ready_renderer
from vdc.claims.burst import questions
from vdc.claims.deploy import claim_deploy
from vdc.requests import DeployRequest


@flow(
    name="deploy",
    flow_run_name="deploy {request.label}",
    **flow_options(),
)
def deploy(request: DeployRequest) -> str:
    """Claim hosts, addresses and quota; make each machine; take back each one that fails.

    Machines on hold have their place when this ends, and are made when they are released.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    failed.
    """
    context = read_context_file(request.context, "the machines")
    clouds = ask_clouds(read(questions, request))
    prices = environment().settings.prices
    with ready_renderer(request, context) as renderer:
        claim = claimed(
            claim_deploy,
            request,
            prices=prices,
            clouds=clouds,
            abilities=abilities(),
            context=context,
            renderer=renderer,
        )
    telling.deploy_plan(request, claim)
    make_machines(claim.batch, all_or_none=request.atomic)
    return conclude(claim.batch)
