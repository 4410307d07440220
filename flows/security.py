"""Put machines into security groups, take them out, and change the groups' rules: on running machines too."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks.abilities import abilities
from tasks.batches import claimed, conclude
from tasks.filtering import filter_machines, follow_groups
from vdc.claims.security import Filtering, claim_assign, claim_change
from vdc.requests import AssignGroupsRequest, ChangeGroupRequest


@flow(name="assign-groups", flow_run_name="{request.verb} {request.label}", **flow_options())
def assign_groups(request: AssignGroupsRequest) -> str:
    """Write down which groups the machines are in, and put their rules into force where they run.

    Returns the operation's id. Raises Refused before anything is touched, OperationFailed where the rules of
    a machine could not be put into force: reconcile goes on.
    """
    return _put_into_force(claimed(claim_assign, request, abilities()))


@flow(name="change-group", flow_run_name="{request.verb} a rule of {request.group}", **flow_options())
def change_group(request: ChangeGroupRequest) -> str:
    """Write down the group's rules, and put them into force for its machines. As `assign_groups`."""
    return _put_into_force(claimed(claim_change, request))


def _put_into_force(asked: Filtering) -> str:
    filter_machines(asked)
    follow_groups()
    return conclude(asked.batch)
