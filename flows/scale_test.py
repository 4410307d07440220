"""Measure how fast machines are made and removed, ours against the bare floor beneath."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from prefect import flow

from flows.deploy import deploy
from flows.settings import flow_options
from flows.terminate import terminate
from tasks import timing
from tasks.batches import claimed, fenced, read, recorded
from tasks.converging import end_scale_test
from tasks.environment import environment
from tasks.fanout import Recorder, act_on_each
from tasks.floor import bare_loop
from tasks.machines import teardown_vm
from tasks.sampling import sampled
from tasks.scale_test import Measured, ensure_directory, read_host, write_report
from vdc.claims.deploy import claim_deploy
from vdc.claims.scale_test import (
    ScaleTest,
    Turn,
    claim_scale_test,
    machines_of,
    out_directory,
)
from vdc.errors import OperationFailed, Refused, Superseded, VdcError
from vdc.operations import close
from vdc.records import Outcome, close_batch, record_failed, record_terminated
from vdc.requests import ScaleTestRequest, TerminateRequest
from vdc.schema import utc_now


@flow(
    name="scale-test",
    flow_run_name="scale test, {request.count} x {request.template}",
    **flow_options(),
)
def scale_test(request: ScaleTestRequest) -> str:
    """Deploy and terminate, as the flows of these names do, in turn with the bare loop; then report.

    Whatever happens, none of its machines stays. Returns the operation's id. Raises Refused before anything
    is touched, OperationFailed where a machine failed.
    """
    settings = environment().settings
    if request.out:
        ensure_directory(Path(request.out))
    test = claimed(claim_scale_test, request, prices=settings.prices)
    measured = Measured()
    with fenced(test.claim) as fence:
        try:
            end_scale_test(test.claim)  # what an earlier attempt of this run left
            directory = out_directory(request, test.name, settings.home)
            facts = [future.result() for future in [read_host.submit(host) for host in test.hosts]]
            with sampled(test.hosts, measured.samples):
                for turn in test.turns():
                    fence.check(test.claim)
                    (_floor if turn.side == "floor" else _ours)(turn, measured)
            end_scale_test(test.claim)
            told = write_report(test, facts, measured, directory)
        except Superseded:
            raise
        except Refused as error:
            # Something was touched by then: it is no refusal of the whole.
            _abandon(test, error)
            raise OperationFailed(f"A turn was refused: {error}", test.claim.operation_id) from error
        except BaseException as error:
            _abandon(test, error)
            raise
    failure = measured.failure
    recorded(close, test.claim, error=failure or None, result=told)
    if failure:
        raise OperationFailed(failure, test.claim.operation_id)
    return test.claim.operation_id


def _ours(turn: Turn, measured: Measured) -> None:
    with measured.round(turn, "deploy") as made:
        operation_id = made.run(deploy, turn.request)
    machines = read(machines_of, operation_id)
    made.failed = sum(bool(error) for _, _, error in machines)
    there = [vm_id for vm_id, _, error in machines if not error]
    if not there:
        return
    with measured.round(turn, "terminate") as removed:
        operation_id = removed.run(terminate, TerminateRequest(vms=there))
    if removed.error:
        removed.failed = sum(bool(error) for _, _, error in read(machines_of, operation_id))
        raise OperationFailed(removed.error, operation_id)


def _floor(turn: Turn, measured: Measured) -> None:
    """Claimed like any others, so that hosts, addresses and quota are reserved, and a crash is mended."""
    batch = claimed(claim_deploy, turn.request, prices=environment().settings.prices).batch
    begun = timing.now()
    with fenced(batch.claim, *(m.claim for m in batch.machines)) as fence:
        try:
            with measured.floor(turn) as put:
                put(bare_loop(batch.machines))
        except VdcError as error:
            failure = f"The bare loop failed: {error}"
            measured.failed_floor(turn, begun, failure)
            failing = [replace(machine, failure=failure) for machine in batch.machines]
            recorder = Recorder(done=record_failed, failed=record_failed)
            act_on_each("clearing", teardown_vm, failing, fence, recorder)
        else:
            gone = [Outcome(m.claim, m.spec, utc_now()) for m in batch.machines]
            recorded(record_terminated, gone)
    recorded(close_batch, batch.claim)


def _abandon(test: ScaleTest, error: BaseException) -> None:
    """Remove what there is, and say why it ended."""
    end_scale_test(test.claim)
    reason = f"It ended before its time: {error or type(error).__name__}"
    recorded(close, test.claim, error=reason)
