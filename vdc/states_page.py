"""docs/states.md, made of the tables in vdc/states.py: `python -m vdc.states_page > docs/states.md`."""

from __future__ import annotations

import sys

from vdc.states import CHARGED, HOLDING, MOVES, OPERATIONS, VmState

HEAD = """# States of a machine

Made of `vdc/states.py` by `python -m vdc.states_page > docs/states.md`; a test compares the two.

## What may be asked in which state

Everything else is refused with exit code 3, before anything is touched. So is what is asked of a machine on
which another operation is under way. `deploying`, `migrating` and `terminating` pass; `missing` is a machine
whose host answers and does not have it.

"""

AS_BEFORE = (VmState.MIGRATING, VmState.MISSING, VmState.TERMINATING)

MIDDLE = """
## What may become what

"""


def page() -> str:
    states = list(VmState)
    asked: list[tuple[str, ...]] = [("", *(s.value for s in states))]
    for name, allowed in OPERATIONS.items():
        asked.append((f"`{name}`", *("x" if s in allowed else "" for s in states)))
    moves: list[tuple[str, ...]] = [("state", "may become", "holds its place", "pays for vCPU and memory")]
    moves += [
        (
            s.value,
            ", ".join(t.value for t in states if t in MOVES[s]) or "-",
            "yes" if s in HOLDING else "",
            "yes" if s in CHARGED else "as before" if s in AS_BEFORE else "",
        )
        for s in states
    ]
    return HEAD + _table(asked) + MIDDLE + _table(moves)


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
