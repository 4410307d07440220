"""Claiming a batch, holding it while the flow acts, and closing it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from prefect.runtime import flow_run

from tasks import telling, timing
from tasks.environment import environment
from vdc.access import actor
from vdc.claims.batch import Batch
from vdc.errors import OperationFailed
from vdc.inventory import read_session, write_session
from vdc.operations import Claim, Fence
from vdc.records import close_batch, read_concluded

log = logging.getLogger(__name__)
T = TypeVar("T")


def read(look: Callable[..., T], *args: object) -> T:
    """Run a check of vdc.claims: nothing is written."""
    with read_session(environment().url) as session:
        return look(session, *args)


def claimed(claim: Callable[..., T], *args: object, **kwargs: object) -> T:
    """Run a claim of vdc.claims in its transaction, for the actor and the flow run of this process."""
    begun = timing.now()
    with write_session(environment().url) as session:
        made = claim(session, *args, actor=actor(), flow_run_id=flow_run.get_id(), **kwargs)
    timing.report("claim", begun)
    return made


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
