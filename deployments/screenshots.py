"""Pictures of the Prefect UI for the docs: `python -m deployments.screenshots docs/images`.

Of the control plane that is up, with a finished deployment in it: the form of `deploy`, and the last such
run. Needs Debian's `chromium`, driven over its DevTools protocol; it reaches loopback alone.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from websockets.sync.client import ClientConnection, connect

from deployments.control.health import call, require_server
from deployments.control.server import ui_url
from vdc.errors import NotFound, TimedOut, VdcError
from vdc.settings import Settings, load

DEADLINE_S = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
    "--hide-scrollbars",
)

CLICK_ARTIFACTS = """
[...document.querySelectorAll('*')]
    .filter(element => element.children.length == 0 && element.innerText == 'Artifacts').pop().click()
"""


class Browser:
    """One page of a browser. Method names and parameters are those of the DevTools protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._sent = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=DEADLINE_S))
            if answer.get("id") == self._sent:
                if "error" in answer:
                    raise VdcError(f"The browser refused {method}: {answer['error']['message']}.")
                found: dict[str, Any] = answer["result"]
                return found

    def evaluate(self, script: str) -> Any:
        return self.send("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def show(self, url: str, *texts: str, height: int) -> None:
        """Open the page and wait until it shows all the texts."""
        size = {"width": 1280, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=url)
        self.wait(*texts)

    def wait(self, *texts: str) -> None:
        deadline, shown = time.monotonic() + DEADLINE_S, ""
        while missing := [text for text in texts if text not in shown]:
            if time.monotonic() > deadline:
                raise TimedOut(f"The Prefect UI does not show {missing[0]!r}, but: {shown[:2000]}")
            time.sleep(0.2)
            shown = self.evaluate("document.body ? document.body.innerText : ''") or ""

    def save(self, file: Path) -> None:
        # Fonts and transitions: what is waited for is there, but may still be moving.
        time.sleep(1.5)
        png = base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"])
        # A quarter of the size, and no difference to the eye.
        Image.open(BytesIO(png)).convert("RGB").quantize(128).save(file, optimize=True)


@contextmanager
def browser() -> Iterator[Browser]:
    with TemporaryDirectory(prefix="vdc-chromium-") as profile:
        command = ["chromium", *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + DEADLINE_S
            while not port.exists() or len(port.read_text().splitlines()) < 2:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise TimedOut("Chromium does not start.")
                time.sleep(0.1)
            with connect(_page_of(port.read_text().splitlines()[0]), max_size=None, proxy=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(20)


def _page_of(port: str) -> str:
    """Address of the page that the browser has open."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=DEADLINE_S) as answer:
        pages = [target for target in json.load(answer) if target["type"] == "page"]
    return str(pages[0]["webSocketDebuggerUrl"])


def _last_run(settings: Settings) -> str:
    wanted = {
        "flows": {"name": {"any_": ["deploy"]}},
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}},
        "sort": "START_TIME_DESC",
        "limit": 1,
    }
    runs = call(settings, "/flow_runs/filter", wanted)
    if not runs:
        raise NotFound("There is no finished deployment to show: make one with `vdc vm deploy`.")
    return str(runs[0]["id"])


def _plan_of(settings: Settings, run: str) -> str:
    wanted = {"artifacts": {"flow_run_id": {"any_": [run]}, "key": {"any_": ["deploy-plan"]}}}
    return str(call(settings, "/artifacts/filter", wanted)[0]["id"])


def main() -> int:
    directory, settings = Path(sys.argv[1]), load()
    directory.mkdir(parents=True, exist_ok=True)
    require_server(settings)
    deployment, run, ui = (
        call(settings, "/deployments/name/deploy/deploy")["id"],
        _last_run(settings),
        ui_url(settings),
    )
    with browser() as page:
        page.show(f"{ui}/deployments/deployment/{deployment}/run", "Name of the template.", height=2000)
        page.save(directory / "deploy-form.png")
        page.show(f"{ui}/runs/flow-run/{run}", "Finished in state", height=900)
        page.evaluate(CLICK_ARTIFACTS)
        page.wait("deploy-result")
        page.save(directory / "deploy-artifacts.png")
        page.show(f"{ui}/artifacts/artifact/{_plan_of(settings, run)}", "Quota left", height=640)
        page.save(directory / "deploy-plan.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
