"""The course of a burn-in: look, let the users work, look again, switch off, look, remove, look."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from deployments.burnin.users import LOG, Journal, Say, draw_and_act, open_log, repeat
from flows.attach import remove_disk
from flows.power import power
from flows.reconcile import reconcile
from flows.terminate import terminate
from flows.verify import verify
from tasks.batches import claimed, fenced, read, recorded
from tasks.environment import environment
from vdc.access import actor
from vdc.burnin import Entry, entries_of, judge, tally
from vdc.claims.burnin import Burnin, claim_burnin, kept_of, machines_of, names_of
from vdc.claims.marks import protect
from vdc.errors import Invalid, OperationFailed, VdcError
from vdc.inventory import write_session
from vdc.operations import close
from vdc.requests import (
    BurninRequest,
    MachinesRequest,
    PowerRequest,
    RemoveDiskRequest,
    TerminateRequest,
    VerifyRequest,
)
from vdc.schema import utc_now
from vdc.states import VmState
from vdc.verification import Check, Verified, merged, open_operations

QUIET_S = 60.0
"""How long others (a scheduled reconcile, say) may take to end what they are at, before it is a finding."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a burn-in tells. `operations`: vdc.burnin.tally; `differs`: what went otherwise in a replay."""

    directory: str
    operations: list[dict[str, Any]]
    checks: list[Check]
    differs: list[str]
    left: list[str]
    """Names of machines and disks that were kept, or could not be removed."""

    @property
    def failed(self) -> list[str]:
        return [check.name for check in self.checks if check.problems]

    def told(self) -> dict[str, Any]:
        """With the keys of docs/cli.md."""
        checks = [{"check": c.name, "result": c.result, "problems": list(c.problems)} for c in self.checks]
        return asdict(self) | {"checks": checks}


class Unsound(OperationFailed):
    """A burn-in found something; with the parts of its report for `--json`."""

    def __init__(self, message: str, operation_id: str, report: Report) -> None:
        super().__init__(message, operation_id)
        self.report = report
        self.directory = report.directory
        self.operations, self.checks = report.told()["operations"], report.told()["checks"]
        self.differs, self.left = report.differs, report.left


def run(request: BurninRequest, directory: Path, say: Say, *, keep: bool = False) -> Report:
    """Let users draw and act. Raises Refused before anything is touched."""
    return _course(request, directory, say, draw_and_act, keep=keep)


def replay(log: Path, directory: Path, say: Say, *, alone: bool, keep: bool = False) -> Report:
    """Ask again for what a log says. Raises Refused."""
    request, before = read_log(log)

    def again(burnin: Burnin, journal: Journal) -> None:
        repeat(burnin, journal, before, alone=alone)

    return _course(request, directory, say, again, keep=keep, before=before)


def read_log(log: Path) -> tuple[BurninRequest, list[Entry]]:
    """What was asked for, and the operations. Raises Invalid where it is no log of a burn-in."""
    try:
        lines = log.read_text().splitlines()
        request = BurninRequest(**json.loads(lines[0])["request"])
        return request, entries_of(lines[1:])
    except OSError as error:
        raise Invalid(f"{log} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Invalid(f"{log} is no log of a burn-in: {error}.") from error


def _course(
    request: BurninRequest,
    directory: Path,
    say: Say,
    act: Callable[[Burnin, Journal], None],
    *,
    keep: bool,
    before: Sequence[Entry] = (),
) -> Report:
    file = open_log(directory)
    try:
        burnin = claimed(claim_burnin, request, prices=environment().settings.prices)
    except BaseException:
        file.close()
        (directory / LOG).unlink()
        with suppress(OSError):  # others may have files there
            directory.rmdir()
        raise
    with file, fenced(burnin.claim):
        try:
            report = _looked_at(burnin, directory, file, say, act, keep, before)
        except BaseException as error:
            say("It ends before its time.")
            left = [] if keep else remove(request, say)
            names = f" Left: {', '.join(left)}." if left else ""
            recorded(close, burnin.claim, error=f"{str(error) or type(error).__name__}{names}")
            raise
        failed = f"Not sound: {', '.join(report.failed)}." if report.failed else ""
        recorded(close, burnin.claim, error=failed or None, result={"directory": report.directory})
    if failed:
        raise Unsound(f"{failed} The log is {directory / LOG}.", burnin.claim.operation_id, report)
    return report


def _looked_at(
    burnin: Burnin,
    directory: Path,
    file: TextIO,
    say: Say,
    act: Callable[[Burnin, Journal], None],
    keep: bool,
    before: Sequence[Entry],
) -> Report:
    request, since = burnin.request, utc_now()

    def look(stage: str) -> Verified:
        say(f"Looking at the platform: {stage}.")
        _wait_until_quiet(burnin)
        return verify(VerifyRequest(bills_since=since, besides=burnin.claim.operation_id))

    was = look("before")
    for problem in (f"{c.name}: {p}" for c in was.checks for p in c.problems):
        say(f"Wrong before it began, and not counted: {problem}")
    file.write(json.dumps({"request": request.model_dump(mode="json"), "at": since.isoformat()}) + "\n")
    journal = Journal(file, len(before) or request.operations, say)
    act(burnin, journal)
    stages = [("as the users left it", look("as the users left it"))]
    gone = Check("its machines can be switched off and removed")
    if keep:
        left = read(names_of, request)
    else:
        problems = _switch_off(request)
        stages.append(("switched off", look("switched off")))
        left = remove(request, say)
        stages.append(("removed", look("removed")))
        problems += [f"{name} is still there" for name in left]
        gone = Check(gone.name, tuple(problems))
    entries = journal.told()
    wrong = _differing(before, entries) if before else []
    # What a replay does in another order may be refused where it was done, or the reverse.
    ended = [e for e in entries if e.outcome == "failed" or not e.outcome] if before else entries
    checks = [
        Check("operations end as they must", tuple(judge(ended))),
        *merged([(stage, seen.checks) for stage, seen in stages], was.checks),
    ]
    checks = [
        Check(c.name, c.problems + _changed(was, stages)) if c.name == "golden images" else c for c in checks
    ]
    report = Report(str(directory), tally(entries), checks if keep else [*checks, gone], wrong, left)
    (directory / "summary.json").write_text(json.dumps(report.told(), indent=2, default=str) + "\n")
    return report


def _wait_until_quiet(burnin: Burnin) -> None:
    deadline = time.monotonic() + QUIET_S
    while read(open_operations, burnin.claim.operation_id) and time.monotonic() < deadline:
        time.sleep(0.5)


def _changed(was: Verified, stages: Sequence[tuple[str, Verified]]) -> tuple[str, ...]:
    found = []
    for key, before in was.images.items():
        for stage, seen in stages:
            now = seen.images.get(key)
            if now != before:
                found.append(f"{key} has sha256 {now or 'unknown'}, before {before} ({stage})")
                break
    return tuple(found)


def _differing(before: Sequence[Entry], entries: Sequence[Entry]) -> list[str]:
    now = {entry.number: entry for entry in entries}
    return [
        f"operation {e.number}, {e.drawn.label}: {e.outcome or 'not ended'} then, "
        f"{now[e.number].outcome or 'not ended'} now"
        for e in before
        if e.number in now and now[e.number].outcome != e.outcome
    ]


def _switch_off(request: BurninRequest) -> list[str]:
    """Nobody has their disks open any more. Returns what went wrong."""
    on = [s.name for s in read(machines_of, request) if s.state in (VmState.RUNNING, VmState.PAUSED)]
    try:
        if on:
            power(PowerRequest(verb="stop", vms=on, tenant=request.tenant, hard=True))
    except VdcError as error:
        return [str(error)]
    return []


def remove(request: BurninRequest, say: Say) -> list[str]:
    """Remove its machines and disks, whatever state they are in; names of those that would not go."""
    for attempt in range(2):
        if not read(names_of, request):
            return []
        try:
            if attempt:
                # What somebody died over, or what ended in the dark, is reconcile's to finish.
                reconcile()
            _unprotect(request)
            if names := [seen.name for seen in read(machines_of, request)]:
                terminate(TerminateRequest(vms=names, tenant=request.tenant))
            for disk in read(kept_of, request):
                remove_disk(RemoveDiskRequest(disk=disk.name, tenant=request.tenant))
        except VdcError as error:
            say(f"Not removed yet: {error}")
    return read(names_of, request)


def _unprotect(request: BurninRequest) -> None:
    protected = [seen.name for seen in read(machines_of, request) if seen.protected]
    if protected:
        with write_session(environment().url) as session:
            asked = MachinesRequest(vms=protected, tenant=request.tenant)
            protect(session, asked, protected=False, actor=actor())
