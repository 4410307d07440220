"""A simulated serial console: it says whose it is, and echoes what is typed."""

from __future__ import annotations

from collections.abc import Callable


class SimulatedConsole:
    def __init__(self, name: str, on_output: Callable[[bytes], None]) -> None:
        self._on_output = on_output
        on_output(f"simulated console of {name}\r\n".encode())

    def send(self, data: bytes) -> None:
        self._on_output(data.replace(b"\r", b"\r\n"))

    def close(self) -> None:
        """Nothing is held."""
