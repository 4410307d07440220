"""Claiming a batch, holding it while the flow acts, and closing it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prefect.runtime import flow_run

from tasks import telling, timing
from tasks.environment import environment
from vdc import access, audit, identity
from vdc.claims.batch import Batch
from vdc.errors import OperationFailed, Refused, VdcError
from vdc.inventory import read_session, write_session
from vdc.operations import Claim, Fence
from vdc.records import close_batch, read_concluded

log = logging.getLogger(__name__)
T = TypeVar("T")


def read(look: Callable[..., T], *args: object) -> T:
    """Run a check of vdc.claims, for whom this process works: nothing is written but a refusal."""
    with _refusals_kept(args), read_session(environment().url) as session:
        access.bind(session, identity.acting(environment().settings))
        return look(session, *args)


def claimed(claim: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run a claim of vdc.claims in its transaction, for whom this process works and for its flow run."""
    begun = timing.now()
    with _refusals_kept(args), write_session(environment().url) as session:
        asking = identity.acting(environment().settings)
        access.bind(session, asking)
        made = claim(session, *args, actor=asking.name, flow_run_id=flow_run.get_id(), **kwargs)
    timing.report("claim", begun)
    return made


@contextmanager
def _refusals_kept(args: tuple[object, ...]) -> Iterator[None]:
    """What is refused goes into the audit, once."""
    try:
        yield
    except Refused as error:
        if not error.recorded:
            request = args[0] if args else None
            attempt = audit.Attempt(
                flow_run.get_flow_name() or "", audit.objects_of(request), flow_run.get_id()
            )
            try:
                recorded(
                    audit.record_refusal, identity.acting_or_none(environment().settings), attempt, error
                )
            except VdcError as unwritten:
                log.error("A refusal could not be written down: %s", unwritten)
            error.recorded = True
        raise


def recorded(record: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run a record of vdc.claims in its transaction."""
    with write_session(environment().url) as session:
        return record(session, *args, **kwargs)


@contextmanager
def fenced(*claims: Claim) -> Iterator[Fence]:
    """Keep the operations alive while the flow acts."""
    settings = environment().settings
    fence = Fence(environment().url, settings.operation_lease_s, claims)
    with fence.kept(on_error=lambda error: log.warning("Heartbeats could not be written: %s", error)):
        yield fence


def conclude(batch: Batch) -> str:
    """Close the batch and return its operation's id. Raises OperationFailed where a machine failed."""
    error = recorded(close_batch, batch.claim)
    telling.batch_result(read(read_concluded, batch.claim))
    if error:
        raise OperationFailed(error, batch.claim.operation_id)
    return batch.claim.operation_id
