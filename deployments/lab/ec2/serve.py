"""The endpoint's process: `python -m deployments.lab.ec2.serve ADDRESS PORT DIRECTORY`.

Writes `endpoint.pid` into DIRECTORY at once, and `endpoint.url` when it listens on ADDRESS:PORT (0: any free
port). Nothing is persisted: whoever starts it again has an empty cloud.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path

from deployments.lab.processes import identify

SETTINGS = {
    "MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION": "true",
    "MOTO_ENABLE_AMI_VALIDATION": "true",
    "MOTO_ENABLE_KEYPAIR_VALIDATION": "true",
    "MOTO_AMIS_PATH": str(Path(__file__).with_name("amis.json")),
}
"""moto refuses what EC2 would refuse; it reads them when it is imported."""

ACCOUNT = "123456789012"
REGION = "eu-west-1"


def _delay(region: str, answer: str, seconds: float) -> None:
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[ACCOUNT][region]
    for instance_id in re.findall(r"<instanceId>(i-[0-9a-f]+)</instanceId>", answer):
        instance = backend.get_instance(instance_id)
        instance._state.name, instance._state.code = "pending", 0

        def boot(state: object = instance._state) -> None:
            if vars(state)["name"] == "pending":
                vars(state).update(name="running", code=16)

        timer = threading.Timer(seconds, boot)
        timer.daemon = True
        timer.start()


def _write(directory: Path, name: str, text: str) -> None:
    """Whole or not at all."""
    waiting = directory / f".{name}"
    waiting.write_text(text)
    waiting.replace(directory / name)


def main() -> None:
    address, port, directory = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    _write(directory, "endpoint.pid", identify(os.getpid()) or "")
    os.environ.update(SETTINGS)
    from moto.moto_server.werkzeug_app import (
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    from deployments.lab.ec2.layer import Layer

    class Handler(MotoRequestHandler):
        def log_request(self, *_: object) -> None:
            """Every poll of every test would be a line."""

    # moto reads its catalogues at the first call, which takes seconds: better before anybody waits for it.
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    assert INSTANCE_TYPES
    assert ec2_backends[ACCOUNT][REGION]
    app = Layer(DomainDispatcherApplication(create_backend_app), _delay)
    server = make_server(address, port, app, threaded=True, request_handler=Handler)
    url = f"http://{address}:{server.server_port}"
    _write(directory, "endpoint.url", url)
    server.serve_forever()


if __name__ == "__main__":
    main()
