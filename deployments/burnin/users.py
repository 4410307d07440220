"""The users of a burn-in: a thread each, drawing what to ask for, or asking again what a log says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import TextIO

from deployments.burnin.acting import act
from tasks.batches import read
from tasks.environment import environment
from vdc.burnin import Drawn, Entry, View, draw, line_of
from vdc.claims.burnin import Burnin, kept_of, machines_of
from vdc.errors import Invalid

Say = Callable[[str], None]
LOG = "log.jsonl"


class Journal:
    """Numbers operations and writes them down: a line when one begins, a line when it ended."""

    def __init__(self, file: TextIO, count: int, say: Say) -> None:
        self.entries: dict[int, Entry] = {}
        self.stopped = threading.Event()
        self._file, self._count, self._say = file, count, say
        self._began = time.monotonic()
        self._open = 0
        self._changed = threading.Condition()

    def _now_s(self) -> float:
        return round(time.monotonic() - self._began, 3)

    def begin(self, user: int, next_one: Callable[[int], tuple[Drawn, View | None]]) -> Entry | None:
        """Number and write down the user's next operation, one user at a time; None when all were asked for.

        Its beginning is before the user looks: whatever ended earlier is seen.
        """
        with self._changed:
            number = len(self.entries) + 1
            if number > self._count or self.stopped.is_set():
                return None
            begun_s = self._now_s()
            drawn, view = next_one(number)
            return self._write_begun(
                Entry(number, user, drawn.operation, drawn.case, drawn.arguments, begun_s), view
            )

    def repeat(self, before: Entry, *, alone: bool) -> Entry | None:
        """As `begin`, of a recorded operation: when those before it have begun, or (`alone`) ended."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self.stopped.is_set()
                    or (len(self.entries) == before.number - 1 and not (alone and self._open))
                )
            )
            if self.stopped.is_set():
                return None
            fresh = replace(before, begun_s=self._now_s(), ended_s=0.0, outcome="", kind="", error="")
            return self._write_begun(fresh, None)

    def _write_begun(self, entry: Entry, view: View | None) -> Entry:
        self.entries[entry.number] = entry
        self._open += 1
        self._write(line_of(entry, view))
        self._changed.notify_all()
        return entry

    def end(self, entry: Entry, outcome: str, kind: str, error: str) -> None:
        with self._changed:
            ended = replace(entry, ended_s=self._now_s(), outcome=outcome, kind=kind, error=error)
            self.entries[entry.number] = ended
            self._open -= 1
            self._write(line_of(ended))
            self._changed.notify_all()
        about = " ".join(sorted(entry.machines))
        why = f": {error}" if outcome == "failed" else ""
        self._say(
            f"{entry.number}/{self._count} user {entry.user}: {entry.drawn.label} {about} "
            f"- {outcome} in {ended.seconds:.1f} s{why}"
        )

    def stop(self) -> None:
        """Nothing more is begun; what is under way ends."""
        self.stopped.set()
        with self._changed:
            self._changed.notify_all()

    def told(self) -> list[Entry]:
        return [self.entries[number] for number in sorted(self.entries)]

    def _write(self, line: str) -> None:
        self._file.write(line + "\n")
        self._file.flush()


def _look(burnin: Burnin, journal: Journal, number: int) -> View:
    request = burnin.request
    machines = read(machines_of, request)
    names = {seen.name for seen in machines}
    # A deployment whose machine is seen already is not counted twice.
    making = sum(
        e.operation == "deploy" and not e.case and not e.outcome and not e.machines & names
        for e in journal.entries.values()
    )
    return View(
        seed=request.seed,
        number=number,
        template=request.template,
        tenant=request.tenant,
        machines=machines,
        hosts=burnin.hosts,
        making=making,
        max_machines=request.max_machines,
        max_snapshots=environment().settings.max_snapshots,
        kept=read(kept_of, request),
    )


def draw_and_act(burnin: Burnin, journal: Journal) -> None:
    """All users at once, until as many operations were asked for as there should be."""

    def work(user: int) -> None:
        chance = Random(f"{burnin.request.seed}/{user}")

        def next_one(number: int) -> tuple[Drawn, View]:
            view = _look(burnin, journal, number)
            return draw(chance, view), view

        while (entry := journal.begin(user, next_one)) is not None:
            journal.end(entry, *act(entry.drawn, burnin.request.tenant))

    _at_once(work, range(1, burnin.request.users + 1), journal)


def repeat(burnin: Burnin, journal: Journal, recorded: Sequence[Entry], *, alone: bool) -> None:
    """The same users with the same operations in the order of the log."""

    def work(user: int) -> None:
        for before in recorded:
            if before.user == user:
                entry = journal.repeat(before, alone=alone)
                if entry is None:
                    return
                journal.end(entry, *act(entry.drawn, burnin.request.tenant))

    _at_once(work, sorted({entry.user for entry in recorded}), journal)


def _at_once(work: Callable[[int], None], users: Iterable[int], journal: Journal) -> None:
    """Raises what ended a user; on Ctrl-C what is under way ends first."""
    errors: list[BaseException] = []

    def guarded(user: int) -> None:
        try:
            work(user)
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            errors.append(error)
            journal.stop()

    threads = [
        # Daemons: a second Ctrl-C must not wait for a guest that does not answer.
        threading.Thread(target=guarded, args=(user,), name=f"user-{user}", daemon=True)
        for user in users
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        journal.stop()
        for thread in threads:
            thread.join()
        raise
    if errors:
        raise errors[0]


def open_log(directory: Path) -> TextIO:
    """A new one. Raises Invalid where it cannot be written, or is there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return (directory / LOG).open("x")
    except OSError as error:
        raise Invalid(f"A log cannot be begun in {directory}: {error.strerror}.") from error
