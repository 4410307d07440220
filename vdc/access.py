"""Who acts. Roles are policy, not yet a security boundary: whoever runs `vdc` holds its database and keys."""

from __future__ import annotations

import getpass
import os


def actor() -> str:
    """Who asked: the operating-system user, or what a worker or a schedule sets in `VDC_ACTOR`."""
    return os.environ.get("VDC_ACTOR") or getpass.getuser()
