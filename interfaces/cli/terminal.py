"""This terminal, attached to a serial port: raw while it lasts, and as before when it ends."""

from __future__ import annotations

import os
import queue
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from drivers.contract import Console

ESCAPE = b"\x1d"
"""Ctrl-]: as in virsh and telnet."""

Opener = Callable[[Callable[[bytes], None], Callable[[str], None]], "Console"]


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def attach(open_console: Opener) -> str:
    """Carry keys and output until Ctrl-] (empty), or until the other side ends: then why."""
    wake, woken = os.pipe()
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()

    def end(why: str) -> None:
        reasons.put(why)
        os.write(woken, b".")

    def show(data: bytes) -> None:
        try:
            _write(data)
        except OSError as error:
            end(f"the terminal is gone ({error.strerror})")

    # Raw first: what is typed while it is attached is the guest's already.
    with _raw(sys.stdin.fileno()):
        console = open_console(show, end)
        try:
            _carry(console, wake)
        finally:
            console.close()
    return "" if reasons.empty() else reasons.get()


def _carry(console: Console, wake: int) -> None:
    keys = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([keys, wake], [], [])
        if wake in ready:
            return
        typed = os.read(keys, 4096)
        before, escape, _ = typed.partition(ESCAPE)
        console.send(before)
        if escape or not typed:
            return


def _write(data: bytes) -> None:
    sys.stdout.flush()
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A hang-up and a polite kill become KeyboardInterrupt, as Ctrl-C is: what was opened is closed."""
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    with ended_in_order():
        try:
            tty.setraw(terminal)
            yield
        finally:
            # NOW: to wait until all is written could take for ever, where nobody reads.
            termios.tcsetattr(terminal, termios.TCSANOW, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
