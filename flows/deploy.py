"""Make machines from a template."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, conclude, fenced, read
from tasks.cloud_check import ask_clouds
from tasks.environment import environment
from tasks.fanout import Recorder, act_on_each
from tasks.machines import provision_vm, teardown_vm
from vdc.claims.burst import questions
from vdc.claims.deploy import claim_deploy
from vdc.records import record_failed, record_provisioned
from vdc.requests import DeployRequest


@flow(
    name="deploy",
    flow_run_name="deploy {request.label}",
    **flow_options(),
)
def deploy(request: DeployRequest) -> str:
    """Claim hosts, addresses and quota; make each machine; take back each one that fails.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where a machine
    failed.
    """
    clouds = ask_clouds(read(questions, request))
    claim = claimed(claim_deploy, request, prices=environment().settings.prices, clouds=clouds)
    batch = claim.batch
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        telling.deploy_plan(request, claim)
        act_on_each(
            "deploying",
            provision_vm,
            batch.machines,
            fence,
            Recorder(done=record_provisioned, failed=record_failed),
            undo=teardown_vm,
            all_or_none=request.atomic,
        )
    return conclude(batch)
