"""How far the running flow is, for whoever looks on in this process."""

from __future__ import annotations

from collections.abc import Callable

Listener = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""

_listeners: list[Listener] = []


def listen(listener: Listener) -> None:
    _listeners.append(listener)


def report(what: str, done: int, total: int) -> None:
    for listener in _listeners:
        listener(what, done, total)
