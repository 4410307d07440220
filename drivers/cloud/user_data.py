"""What an instance is told about itself: the seed's cloud-config, and the start script within it.

A cloud carries one document; a seed has a file for the script beside it.
"""

from __future__ import annotations

from drivers.seed import cloud_config, script
from vdc.model import ContextSpec, GuestFile

START = "/var/lib/cloud/vdc-start"


def user_data(context: ContextSpec) -> str:
    """Cloud-config for cloud-init. Raises Invalid for a value with control characters."""
    if not context.start_script:
        return cloud_config(context)
    start = GuestFile(START, script(context.start_script), "0700")
    return cloud_config(context, files=[start], run=[START])
