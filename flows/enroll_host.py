"""Put a hypervisor host into service."""

from __future__ import annotations

from prefect import flow

from flows.settings import flow_options
from tasks import telling
from tasks.batches import claimed, read
from tasks.host_check import complete_uri
from tasks.hosts import check_host
from tasks.peers import tell_peers
from vdc.claims.hosts import check_enrolment, claim_enrolment
from vdc.requests import EnrollHostRequest


@flow(name="enroll-host", flow_run_name="enroll {request.name}", **flow_options())
def enroll_host(request: EnrollHostRequest) -> str:
    """Check access, host key, virtualisation, uplinks and datastores; write the host down; then let the
    tunnels of networks lead to it.

    Returns the operation's id. Raises Refused, with the reason, where the host is not fit.
    """
    request = request.model_copy(update={"uri": complete_uri(request.uri)})
    datastores = read(check_enrolment, request)
    seen = check_host(request, datastores)
    claim = claimed(claim_enrolment, request, seen)
    tell_peers(request.networks)
    telling.enroll_result(request, seen)
    return claim.operation_id
