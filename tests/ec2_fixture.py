"""The lab's EC2 endpoint for a test session: on a free port of 127.0.0.1, gone with the session."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from deployments.lab.ec2 import endpoint
from deployments.lab.ec2.endpoint import Control
from deployments.lab.processes import read_pid
from deployments.lab.system import wait_until


@pytest.fixture(scope="session")
def ec2_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    directory = tmp_path_factory.mktemp("ec2")
    endpoint.start("127.0.0.1", 0, directory, os.environ)
    try:
        yield endpoint.wait(directory)
    finally:
        if pid := read_pid(directory / endpoint.PID_FILE):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not endpoint.is_running(directory), "The EC2 endpoint ended", timeout_s=30)


@pytest.fixture
def ec2(ec2_endpoint: Control, monkeypatch: pytest.MonkeyPatch) -> Iterator[Control]:
    """The endpoint without faults, and credentials for it in the environment."""
    for name, value in endpoint.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    ec2_endpoint.release()
    ec2_endpoint.boot_delay(0)
    yield ec2_endpoint
    ec2_endpoint.release()
