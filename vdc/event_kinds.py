"""Kinds of usage events, and what each makes of a machine: for bills (reports/levels.py) and plans.

What each tells: docs/billing.md.
"""

from __future__ import annotations

TRAFFIC = "traffic"
"""The one kind that tells no level, but what was sent: it belongs to the time before its instant."""

RANK = {
    TRAFFIC: 0,
    "created": 1,
    "stored": 1,
    "held": 3,
    "stopped": 4,
    "released": 4,
    "lost": 4,
    "suspended": 5,
    "started": 6,
    "resumed": 7,
    "terminated": 8,
    "removed": 8,
}
OTHER = 2
"""Order of what happened at the same instant. An event of another kind tells a size or an owner."""

BECOMES = {
    "created": "stopped",
    "stored": "running",
    "held": "held",
    "stopped": "stopped",
    "released": "stopped",
    "lost": "stopped",
    "suspended": "suspended",
    "started": "running",
    "resumed": "running",
}
"""State after an event. Who never started is stopped; an image is `running` as long as it is there."""

MAKING = ("created", "stored", "started", "resumed")
"""From the first of these on there is something on a host."""
ENDING = ("terminated", "removed")
