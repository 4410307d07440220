"""Renders texts that somebody wrote whom nobody need trust: a process of its own, which knows nothing.

Run by its path (vdc/rendering.py), with an empty environment: it imports Jinja2, gives up all that it could
reach, and only then reads what to render. Time and memory are bounded by the kernel, the size of what comes
out here. It ends with the first text that cannot be rendered.

In:  `{"texts": {key: text}, "machines": [{facts}], "lenient": bool, "secret": [mark before a secret's name,
mark after it], "cpu_s": n, "memory_mib": n, "bytes": n}`.
Out: `{"rendered": [{key: text}, ...]}`, a map a machine, or `{"key": ..., "error": ...}`. Before a text is
begun its key goes to stderr, so that it is known which one took too long.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, trim_blocks=True
    )
    limited_range = environment.globals["range"]
    environment.globals.clear()
    environment.globals |= {"range": limited_range}
    # What comes out must be the same each time.
    del environment.filters["random"]
    return environment


def _warm(environment: ImmutableSandboxedEnvironment) -> None:
    """Let Jinja2 and Python import what they import when it is needed: afterwards nothing can be opened."""
    for text in ("{{ 'a'|replace('a', 'b')|center(3) }}", "{{ {'a': 1}|tojson }}", "{{ nothing }}", "{{"):
        with suppress(TemplateError):
            environment.from_string(text).render()


def _bound(cpu_s: int, memory_mib: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib * 2**20, memory_mib * 2**20))
    # Nothing can be opened any more, and nothing written but to the pipes that are open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


class _TooLarge(Exception):
    pass


def _render(template: Any, facts: Mapping[str, Any], limit: int) -> str:
    pieces, size = [], 0
    for piece in template.generate(facts):
        size += len(piece.encode())
        if size > limit:
            raise _TooLarge
        pieces.append(piece)
    return "".join(pieces)


def _begin(key: str) -> None:
    sys.stderr.write(f"{key}\n")
    sys.stderr.flush()


def _render_all(environment: ImmutableSandboxedEnvironment, job: Mapping[str, Any]) -> dict[str, Any]:
    texts, limit = job["texts"], job["bytes"]
    begin, end = job["secret"]
    environment.globals["secret"] = lambda name: f"{begin}{name}{end}"
    key = ""
    try:
        templates = {}
        for key, text in texts.items():
            _begin(key)
            templates[key] = environment.from_string(text)
        rendered = []
        for facts in job["machines"]:
            made, left = {}, limit
            for key, template in templates.items():
                _begin(key)
                try:
                    made[key] = _render(template, facts, left)
                except UndefinedError:
                    if not job["lenient"]:
                        raise
                    made[key] = ""
                left -= len(made[key].encode())
            rendered.append(made)
        return {"rendered": rendered}
    except _TooLarge:
        return {"key": key, "error": f"it grows beyond {limit // 1024} KiB"}
    except MemoryError:
        return {"key": key, "error": f"it needs more than {job['memory_mib']} MiB of memory"}
    except RecursionError:
        return {"key": key, "error": "it calls itself without end"}
    except TemplateError as error:
        line = f"line {lineno}: " if (lineno := getattr(error, "lineno", None)) else ""
        return {"key": key, "error": f"{line}{' '.join(str(error).split())}"}
    except Exception as error:  # noqa: BLE001 (whatever a text makes of the filters, it is the text's doing)
        return {"key": key, "error": f"{' '.join(str(error).split()) or type(error).__name__}"}


def main() -> None:
    environment = _environment()
    _warm(environment)
    job = json.load(sys.stdin)
    _bound(job["cpu_s"], job["memory_mib"])
    json.dump(_render_all(environment, job), sys.stdout)


if __name__ == "__main__":
    main()
