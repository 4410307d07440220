"""Somebody at a terminal: a program on a pseudo-terminal, with what it shows and what is typed."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Typist:
    def __init__(self, arguments: list[str], env: Mapping[str, str]) -> None:
        self._master, self._slave = pty.openpty()
        self.before = self.attributes()
        self.seen = b""
        # Not select(): a process that has run a thousand tests has descriptors that it does not take.
        self._shown = select.poll()
        self._shown.register(self._master, select.POLLIN)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "interfaces.cli.main", *arguments],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=dict(env),
            start_new_session=True,
        )

    def attributes(self) -> list[Any]:
        """Of the terminal: what must be as before when the program has ended."""
        return termios.tcgetattr(self._slave)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, text: bytes, deadline_s: float = 60.0) -> bytes:
        """What was shown since the last time, up to this text."""
        deadline = time.monotonic() + deadline_s
        while text not in self.seen:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"{text!r} was not shown; this was: {self.seen[-2000:]!r}"
            if self._shown.poll(1000 * left_s):
                self.seen += os.read(self._master, 65536)
        shown, _, self.seen = self.seen.partition(text)
        return shown + text

    def end(self, deadline_s: float = 30.0) -> int:
        return self.process.wait(deadline_s)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        os.close(self._master)
        os.close(self._slave)


@contextmanager
def typing(arguments: list[str], env: Mapping[str, str]) -> Iterator[Typist]:
    typist = Typist(arguments, env)
    try:
        yield typist
    finally:
        typist.close()
