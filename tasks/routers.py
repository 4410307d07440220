"""Telling routers what they are to know: by their seed, which they are shown anew, and put into force.

Only the agent in them is asked, so that no address of a tenant's network is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial

from prefect import task
from prefect.utilities.annotations import quote

from drivers import registry, router
from tasks.batches import fenced, read, recorded
from tasks.domains import domain_spec
from tasks.environment import environment
from tasks.fanout import Recorder, act_on_each
from tasks.machines import PROVISION, TEARDOWN, Call, ensure_seed, run_steps
from tasks.retrying import retrying
from vdc.access import actor
from vdc.claims.batch import Batch, Machine
from vdc.claims.routers import (
    Telling,
    claim_telling,
    read_known,
    record_redeployed,
    record_told,
    record_unsure,
    record_untold,
)
from vdc.errors import DriverFailure, OperationFailed, Superseded, VdcError
from vdc.model import VmSpec
from vdc.operations import Fence
from vdc.reconciliation import Finding
from vdc.routers import routed_networks

log = logging.getLogger(__name__)

ANSWER_S = 30.0
"""How long a router's agent is waited for: it may just be booting."""
LOOK_S = 5.0
"""The same, where it is only looked at."""

_REPLACE = {
    **{name: TEARDOWN[name] for name in ("remove domain", "remove files")},
    **PROVISION,
}
"""Its ports stay: they have their rules."""


@task(name="tell-router", task_run_name="tell the router of {telling.vnet}", **retrying() | {"retries": 1})
def tell_router(telling: Telling, fence: Fence) -> datetime:
    """Write its seed; one that runs is shown it, and has to put it into force."""

    def show(spec: VmSpec) -> Iterator[Call]:
        hypervisor = registry.hypervisor(spec.host, environment().access)
        yield partial(hypervisor.refresh_seed, domain_spec(spec))
        yield partial(_apply, spec)

    steps = {"ensure seed": ensure_seed} | ({"tell router": show} if telling.running else {})
    return run_steps(steps, Machine(telling.claim, telling.spec), fence)


def _apply(spec: VmSpec) -> None:
    hypervisor = registry.hypervisor(spec.host, environment().access)
    said = hypervisor.run_in_guest(spec.domain, router.APPLY, timeout_s=ANSWER_S).strip()
    assert spec.context.router is not None, "it is a router's"
    if said != f"{router.DIGEST}{spec.context.router.digest}":
        raise DriverFailure(f"it has put something else into force than its seed says: {said!r}")


def tell_and_record(telling: Telling, fence: Fence) -> None:
    """Until it knows what it is to know by then. Raises what kept it from it, written down."""
    more: Telling | None = telling
    while more is not None:
        try:
            tell_router(quote(more), quote(fence))
        except Superseded:
            raise
        except VdcError as error:
            recorded(record_untold, more, str(error))
            raise
        more = recorded(record_told, more)


def change_router(telling: Telling) -> str:
    """Tell it what was written down. Returns the operation's id. Raises OperationFailed."""
    with fenced(telling.claim) as fence:
        try:
            tell_and_record(telling, fence)
        except Superseded:
            raise
        except VdcError as error:
            raise OperationFailed(
                f"It is written down, but the router of {telling.vnet} does not know it yet: {error} "
                "`vdc reconcile` tells it.",
                telling.claim.operation_id,
            ) from error
    return telling.claim.operation_id


@task(name="tell-routers", **retrying() | {"retries": 0})
def _tell_each(tellings: Sequence[Telling], fence: Fence) -> None:
    for telling in tellings:
        try:
            tell_and_record(telling, fence)
        except VdcError as error:
            log.warning("The router of %s was not told: %s `vdc reconcile` tells it.", telling.vnet, error)


def tell_routers(vnet_ids: Iterable[str]) -> None:
    """Tell the routers of these networks what has changed. What fails is in its operation, and logged."""
    tellings = recorded(claim_telling, vnet_ids, actor=actor())
    if tellings:
        with fenced(*(telling.claim for telling in tellings)) as fence:
            _tell_each(quote(tellings), quote(fence))


@contextmanager
def routers_told(specs: Sequence[VmSpec]) -> Iterator[None]:
    """Around what makes or removes machines: their routers are told at once, so that a machine that starts
    has its lease and its name, and again of what became of it."""
    vnet_ids = {nic.vnet.vnet_id for spec in specs for nic in spec.nics}
    tellings = recorded(claim_telling, vnet_ids, actor=actor()) if vnet_ids else []
    if tellings:
        with fenced(*(telling.claim for telling in tellings)) as fence:
            telling_them = _tell_each.submit(quote(tellings), quote(fence))
            try:
                yield
            finally:
                telling_them.result()
    else:
        yield
    tell_routers(vnet_ids)


@task(name="replace-router", task_run_name="replace {machine.spec.name}", **retrying())
def replace_router(machine: Machine, fence: Fence) -> datetime:
    """Remove the router's domain and disk, and make them anew."""
    return run_steps(_REPLACE, machine, fence)


def replace_routers(machines: Sequence[Machine], fence: Fence) -> None:
    recorder = Recorder(done=record_redeployed, failed=record_redeployed)
    act_on_each("redeploying", replace_router, machines, fence, recorder)


def redeploy(batch: Batch) -> None:
    """The batch stays open."""
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        replace_routers(batch.machines, fence)


@task(name="ask-router", task_run_name="ask {spec.name}", **retrying() | {"retries": 0})
def _ask(spec: VmSpec) -> str:
    """What it has put into force, or why that is not known."""
    hypervisor = registry.hypervisor(spec.host, environment().access)
    try:
        return hypervisor.run_in_guest(spec.domain, router.READ, timeout_s=LOOK_S).strip()
    except VdcError as error:
        return str(error)


def converge_routers() -> list[Finding]:
    """Ask every router that runs what it knows, and tell those that do not know all."""
    routed = read(routed_networks)
    if not routed:
        return []
    known = read(read_known)
    answers = [(one, _ask.submit(quote(one.spec))) for one in known]
    findings: list[Finding] = []
    wrong, silent = [], set()
    for one, future in answers:
        said = future.result()
        if not said.startswith(router.DIGEST):
            findings.append(Finding("router does not answer", f"router/{one.vnet}", one.spec.host.name, said))
            silent.add(one.vnet_id)
        elif said != f"{router.DIGEST}{one.told}":
            wrong.append(one.router_id)
    if wrong:
        recorded(record_unsure, wrong)
    tellings = recorded(claim_telling, set(routed) - silent, actor=actor())
    with fenced(*(telling.claim for telling in tellings)) as fence:
        for telling in tellings:
            try:
                tell_and_record(telling, fence)
            except VdcError as error:
                action = f"not told yet: {error}"
            else:
                action = "told"
            findings.append(
                Finding("router does not know all", f"router/{telling.vnet}", telling.spec.host.name, action)
            )
    return findings
