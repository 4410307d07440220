"""Start the EC2 endpoint, wait for it, tell it what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.lab.processes import read_pid
from deployments.lab.system import wait_until
from vdc.errors import DriverFailure

PORT = 7780
REGION = "eu-west-1"
AMI = "ami-0000000000000711e"
"""Stands for the image `tiny` (amis.json)."""
PRICES = Path(__file__).with_name("prices.csv")
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab"}
"""moto takes any; whoever uses the endpoint has to give some, as with EC2."""
CHECKOUT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 90.0
PID_FILE = "endpoint.pid"


def address_of(number: int) -> str:
    """The lab's own loopback address for it."""
    return f"127.77.{number}.9"


def uri_of(url: str) -> str:
    """For `vdc cloud add`."""
    return f"ec2://{REGION}?endpoint={url}"


def is_running(directory: Path) -> bool:
    return read_pid(directory / PID_FILE) is not None


def start(address: str, port: int, directory: Path, environment: Mapping[str, str]) -> bool:
    """Start it in the background, unless it runs; it answers some seconds later (`wait`).

    Raises DriverFailure with the end of its log where it does not start.
    """
    if is_running(directory):
        return False
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("endpoint.url", PID_FILE):
        (directory / name).unlink(missing_ok=True)
    with (directory / "endpoint.log").open("ab") as log:
        # --fork: it is nobody's child, as whoever starts it may end before it.
        subprocess.run(
            ["setsid", "--fork", sys.executable, "-m", "deployments.lab.ec2.serve", address, str(port),
             str(directory)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(environment),
            cwd=CHECKOUT,
            check=True,
        )  # fmt: skip
    wait_until(
        lambda: is_running(directory),
        "The EC2 endpoint's process runs",
        timeout_s=START_TIMEOUT_S,
        logs=[directory / "endpoint.log"],
    )
    return True


def wait(directory: Path, timeout_s: float = START_TIMEOUT_S) -> Control:
    """Wait until it answers. Raises DriverFailure with the end of its log where it does not."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and is_running(directory):
        try:
            control = Control((directory / "endpoint.url").read_text())
            control.state()
        except (OSError, urllib.error.URLError):
            time.sleep(0.1)
            continue
        return control
    log = directory / "endpoint.log"
    end = log.read_text()[-2000:] if log.exists() else ""
    raise DriverFailure(f"The EC2 endpoint does not answer: {end}")


@dataclass(frozen=True, slots=True)
class Control:
    """The hand on a running endpoint (layer.py says what it can)."""

    url: str

    @property
    def uri(self) -> str:
        return uri_of(self.url)

    def state(self) -> dict[str, Any]:
        return self._ask("state")

    def calls(self, action: str) -> list[dict[str, str]]:
        return [call for call in self.state()["calls"] if call["Action"] == action]

    def fail(
        self,
        call: str,
        code: str = "",
        *,
        status: int = 400,
        times: int = 1,
        lose: bool = False,
        match: Mapping[str, str] | None = None,
    ) -> None:
        """The next `times` such calls (with these parameters) fail, or, with `lose`, lose their answer."""
        self._ask(
            "faults",
            {
                "call": call,
                "code": code,
                "status": status,
                "times": times,
                "lose": lose,
                "match": dict(match or {}),
            },
        )

    def hold(self, call: str) -> None:
        """Such calls take effect, then wait with their answer until `release`."""
        self._ask("holds", {"call": call})

    def release(self) -> None:
        self._ask("release", {})

    def boot_delay(self, delay_s: float) -> None:
        self._ask("boot", {"delay_s": delay_s})

    def _ask(self, command: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if values is None else json.dumps(values).encode()
        request = urllib.request.Request(f"{self.url}/_lab/{command}", data)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310
            answer: dict[str, Any] = json.load(response)
        return answer
