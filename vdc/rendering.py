"""Rendering of templates that tenants write (Jinja2, sandboxed), in a process that is bounded and then gone.

Not in our own: a sandbox keeps a text from what it may not read, but not from a loop without end or from
`"a" * 10**10`. The process holds nothing worth reading: no inventory, no secret, no environment.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vdc.errors import DriverFailure, Invalid

CPU_S = 1
"""Of CPU for a text that somebody sets; of machines that are made together, one more for each 200."""
MEMORY_MIB = 512
"""Of address space: an interpreter with Jinja2 takes some 60."""
MAX_BYTES = 64 * 1024
"""Of all that is rendered for one machine."""
TIMEOUT_S = 30.0
"""On a machine that has other things to do a second of CPU can take long."""
MOST_SHOWN = 200

_CHILD = Path(__file__).with_name("rendering_child.py")


SECRET = ("\ue000", "\ue001")
"""Around the name of a secret, where that belongs: characters of nobody's alphabet."""


def is_template(text: str) -> bool:
    return any(mark in text for mark in ("{{", "{%", "{#"))


class Renderer:
    """Renders once. Begun as a context manager the process starts at once, so that a claim need not wait."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Renderer:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                env={},
                cwd="/",
            )
        except OSError as error:
            raise DriverFailure(f"The process that renders contexts cannot be started: {error}.") from error
        return self._process

    def render(
        self, texts: Mapping[str, str], machines: Sequence[Mapping[str, Any]], *, lenient: bool = False
    ) -> list[dict[str, str]]:
        """The texts of each machine, by their keys, which say to a person what they are.

        `machines` are what the texts may name. `lenient`: a name that there is not is none of its business,
        as these are no real machines. Raises Invalid, in one sentence, where a text cannot be rendered.
        """
        if not texts:
            return [{} for _ in machines]
        process = self._process or self._start()
        self._process = None
        cpu_s = CPU_S + len(machines) // 200
        job = {
            "texts": dict(texts),
            "secret": SECRET,
            "machines": list(machines),
            "lenient": lenient,
            "cpu_s": cpu_s,
            "memory_mib": MEMORY_MIB,
            "bytes": MAX_BYTES,
        }
        try:
            out, said = process.communicate(json.dumps(job), timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            raise _refused(_last(said, texts), f"it takes longer than {TIMEOUT_S:g} s") from None
        except BaseException:
            process.kill()
            process.communicate()
            raise
        if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise _refused(_last(said, texts), f"it takes more than {cpu_s} s of CPU")
        if process.returncode:
            raise _refused(_last(said, texts), f"it ended its process ({process.returncode})")
        answer = json.loads(out)
        if "error" in answer:
            raise _refused(answer["key"], answer["error"])
        rendered: list[dict[str, str]] = answer["rendered"]
        return rendered


def _last(said: str, texts: Mapping[str, str]) -> str:
    """The text that was begun last."""
    return next((line for line in reversed(said.splitlines()) if line in texts), "a text")


def _refused(key: str, why: str) -> Invalid:
    shown = why if len(why) <= MOST_SHOWN else f"{why[:MOST_SHOWN]}..."
    return Invalid(f"The context is refused: {key} cannot be rendered: {shown.rstrip('.')}.")
