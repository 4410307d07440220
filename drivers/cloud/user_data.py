"""What an instance is told about itself: the seed's cloud-config, and the start script within it.

A cloud carries one document; a seed has a file for the script beside it.
"""

from __future__ import annotations

from base64 import b64encode

from drivers.seed import seed_files
from vdc.model import ContextSpec

START = "/var/lib/cloud/vdc-start"


def user_data(context: ContextSpec) -> str:
    """Cloud-config for cloud-init. Raises Invalid for a value with control characters."""
    files = seed_files(context, "", ())
    text = files["user-data"]
    if script := files.get("vendor-data"):
        encoded = b64encode(script.encode()).decode()
        text += (
            f'write_files:\n  - path: "{START}"\n    permissions: "0700"\n    encoding: b64\n'
            f'    content: "{encoded}"\nruncmd:\n  - ["{START}"]\n'
        )
    return text
