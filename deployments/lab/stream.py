"""One HTTP request every 100 ms from a probe, each answer timed: whether a machine's users notice anything.

As a program (`python -m deployments.lab.stream ADDRESS`) it asks until its standard input ends, and then
prints what it saw; `watch` runs it in a probe's namespace.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from deployments.lab.probe import Probe
from vdc.errors import TimedOut
from vdc.settings import CHECKOUT

PERIOD_S = 0.1
PATIENCE_S = 10.0
LATE_S = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """Asked at `at_s` after the beginning, answered after `took_s` with `body`; None: never."""

    at_s: float
    took_s: float | None
    body: str = ""

    @property
    def says(self) -> dict[str, str]:
        """What the guest told of itself."""
        return dict(line.split("=", 1) for line in self.body.splitlines() if "=" in line)

    @property
    def noticed(self) -> bool:
        """Whether a user would notice: lost, or late by over a second."""
        return self.took_s is None or self.took_s > LATE_S


@dataclass
class Stream:
    """What a watch saw, in the order of asking: complete when the watch is over."""

    answers: list[Answer] = field(default_factory=list)

    @property
    def noticed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.noticed]

    @property
    def longest_s(self) -> float:
        """The longest wait for an answer that came."""
        return max((a.took_s for a in self.answers if a.took_s is not None), default=0.0)


@contextmanager
def watch(probe: Probe, address: str) -> Iterator[Stream]:
    """Ask http://address/ from the probe while the block runs; begins when the first answer has come.

    Raises TimedOut where none comes within `PATIENCE_S`.
    """
    command = probe.command([sys.executable, "-m", "deployments.lab.stream", address])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=CHECKOUT, text=True, **pipes) as process:
        assert process.stdout is not None
        seen = Stream()
        try:
            if process.stdout.readline().strip() != "answered":
                raise TimedOut(f"http://{address}/ did not answer {probe.namespace} in {PATIENCE_S:g} s.")
            yield seen
            told, _ = process.communicate(timeout=2 * PATIENCE_S)
            seen.answers += [Answer(**answer) for answer in json.loads(told)]
        finally:
            process.kill()


def _ask(address: str, begun: float, answers: list[Answer]) -> None:
    asked = time.monotonic()
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    took_s, body = None, ""
    try:
        connection.request("GET", "/")
        body = connection.getresponse().read().decode(errors="replace")
        took_s = time.monotonic() - asked
    except (OSError, http.client.HTTPException):
        pass  # the answer that never came is what is told
    finally:
        connection.close()
    answers.append(Answer(asked - begun, took_s, body))


def main(address: str) -> None:
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    first: list[Answer] = []
    begun = time.monotonic()
    while not any(a.took_s for a in first) and time.monotonic() < begun + PATIENCE_S:
        _ask(address, begun, first)
    if not any(a.took_s for a in first):
        return
    print("answered", flush=True)
    answers: list[Answer] = []
    threads = []
    begun = time.monotonic()
    while not over.is_set():
        threads.append(threading.Thread(target=_ask, args=(address, begun, answers)))
        threads[-1].start()
        over.wait(max(0.0, begun + len(threads) * PERIOD_S - time.monotonic()))
    for thread in threads:
        thread.join()
    print(json.dumps([asdict(answer) for answer in sorted(answers, key=lambda a: a.at_s)]))


if __name__ == "__main__":
    main(sys.argv[1])
