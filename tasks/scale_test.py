"""What a scale test measures, gathered while its turns run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from drivers import processes, registry
from reports import scale_files, scale_test
from reports.scale_test import Frames
from tasks import sampling, timing
from tasks.environment import environment
from tasks.floor import Interval
from tasks.sampling import Sample
from tasks.timing import Step
from vdc.claims.scale_test import ScaleTest, Turn
from vdc.errors import Invalid, OperationFailed
from vdc.model import HostFacts, HostRef


@dataclass
class Round:
    """One side making or removing its machines. Instants are seconds since 1970."""

    turn: Turn
    action: str
    """`deploy` or `terminate`."""
    begun: float = 0.0
    ended: float = 0.0
    client_cpu_s: float = 0.0
    server_cpu_s: float | None = None
    quiet: bool = True
    """Whether the Prefect server came to rest before the next round."""
    failed: int = 0
    error: str = ""
    steps: list[Step] = field(default_factory=list)

    def run(self, flow: Callable[[Any], str], request: Any) -> str:
        """Run a flow and note its failure; return the id of its operation."""
        try:
            return flow(request)
        except OperationFailed as error:
            self.error, self.failed = str(error), 1
            return error.operation_id


@dataclass
class Measured:
    """All that was measured."""

    rounds: list[Round] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @contextmanager
    def round(self, turn: Turn, action: str) -> Iterator[Round]:
        """Measure the block; then let the Prefect server come to rest: that is its share of the round."""
        made = Round(turn, action)
        server = sampling.server_cpu_s()
        client = processes.cpu_s(os.getpid())
        with timing.listening(made.steps.append):
            made.begun = timing.now()
            yield made
            made.ended = timing.now()
        made.client_cpu_s = processes.cpu_s(os.getpid()) - client
        made.quiet = sampling.wait_quiet()
        after = sampling.server_cpu_s()
        made.server_cpu_s = None if server is None or after is None else after - server
        self.rounds.append(made)

    @contextmanager
    def floor(self, turn: Turn) -> Iterator[Callable[[Sequence[Interval]], None]]:
        """Measure a turn of the bare loop, which says itself when making and removing began and ended."""
        steps: list[Step] = []

        def put(intervals: Sequence[Interval]) -> None:
            for action, interval in zip(("deploy", "terminate"), intervals, strict=True):
                within = [s for s in steps if interval.begun <= s.begun <= interval.ended]
                self.rounds.append(
                    Round(turn, action, interval.begun, interval.ended, interval.client_cpu_s, steps=within)
                )

        with timing.listening(steps.append):
            yield put

    def failed_floor(self, turn: Turn, begun: float, error: str) -> None:
        self.rounds.append(Round(turn, "deploy", begun, timing.now(), failed=turn.request.count, error=error))

    @property
    def failure(self) -> str:
        """The first round's error; empty where no machine failed."""
        errors = [r.error for r in self.rounds if r.error]
        others = len(errors) - 1
        more = f" So did {others} other round{'s' * (others != 1)}." if others > 0 else ""
        return f"{errors[0]}{more}" if errors else ""

    def frames(self) -> Frames:
        rounds = [
            {
                "repetition": r.turn.repetition,
                "side": r.turn.side,
                "action": r.action,
                "begun": r.begun,
                "ended": r.ended,
                "machines": r.turn.request.count,
                "failed": r.failed,
                "client_cpu_s": r.client_cpu_s,
                "server_cpu_s": r.server_cpu_s,
                "quiet": r.quiet,
                "error": r.error,
            }
            for r in self.rounds
        ]
        steps = [
            {
                "repetition": r.turn.repetition,
                "side": r.turn.side,
                "action": r.action,
                "vm_id": s.machine.vm_id if s.machine else "",
                "machine": s.machine.name if s.machine else "",
                "host": s.machine.host.name if s.machine else "",
                "phase": s.name,
                "begun": s.begun,
                "ended": s.ended,
                "error": s.error,
            }
            for r in self.rounds
            for s in r.steps
        ]
        return scale_test.frames(rounds, steps, [asdict(sample) for sample in self.samples])


@task(name="look-at-host", task_run_name="look at {host.name}", cache_policy=NO_CACHE, persist_result=False)
def read_host(host: HostRef) -> HostFacts:
    """What a host says of itself; from here on we are connected to it."""
    return registry.hypervisor(host, environment().access).read_facts()


def ensure_directory(directory: Path) -> None:
    """Refuse, before anything is measured, what cannot be written to. Raises Invalid."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ".probe").touch()
        (directory / ".probe").unlink()
    except OSError as error:
        raise Invalid(f"The report cannot be written to {directory}: {error}.") from error


@task(name="write-report", task_run_name="write report", cache_policy=NO_CACHE, persist_result=False)
def write_report(
    test: ScaleTest, facts: Sequence[HostFacts], measured: Measured, directory: Path
) -> dict[str, Any]:
    """Frames and page into `directory`. Returns the figures, as an operation's result keeps them."""
    spec, settings = test.machines[0], environment().settings
    about = {
        "name": test.name,
        "operation_id": test.claim.operation_id,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "request": test.request.model_dump(mode="json"),
        "shape": {
            "vcpu": spec.vcpu,
            "memory_mib": spec.memory_mib,
            "disk_mib": sum(disk.size_mib for disk in spec.disks),
            "nics": len(spec.nics),
        },
        "hosts": [asdict(one) for one in facts],
        "per_host_concurrency": settings.per_host_concurrency,
        "no_floor": test.no_floor,
        "cpus": os.cpu_count(),
    }
    return scale_files.write(measured.frames(), about, directory)
