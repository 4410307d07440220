"""Server or worker in the foreground: `python -m deployments.control.service server|worker|stop-worker`.

The systemd units in deployments/systemd run these; without a supervisor, `vdc up` does.
"""

from __future__ import annotations

import argparse
import sys

from deployments.control import prefect_objects, server, worker
from drivers.ssh_files import ensure_ssh_files
from vdc import inventory
from vdc.errors import VdcError
from vdc.settings import Settings, load


def prepare(settings: Settings) -> None:
    """Make what must be there before anything runs: home, inventory, SSH files."""
    settings.home.mkdir(parents=True, exist_ok=True)
    inventory.migrate(settings.inventory_url)
    ensure_ssh_files(settings.ssh_dir)


def main() -> int:
    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    parser.add_argument("what", choices=["server", "worker", "stop-worker"])
    what = parser.parse_args().what
    try:
        settings = load()
        if what == "server":
            prepare(settings)
            server.become(settings)
        if what == "stop-worker":
            worker.ensure_stopped(settings)
            return 0
        server.wait_until_well(settings)
        prefect_objects.ensure_objects(settings)
        worker.become(settings)
    except VdcError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
