"""Who acts. Roles are policy, not yet a security boundary: whoever runs `vdc` holds its database and keys."""

from __future__ import annotations

import getpass
import os

SCHEDULE = "schedule"
PREFECT_UI = "prefect-ui"
"""Whoever reaches Prefect's UI or API: an administrator."""


def actor() -> str:
    """Who asked: the operating-system user, or whom `VDC_ACTOR` names (see deployments/control/engine)."""
    return os.environ.get("VDC_ACTOR") or getpass.getuser()
