"""Is the Prefect server there? Asked before any flow, so without importing Prefect."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from deployments.control.process import Daemon
from vdc.errors import Unready
from vdc.settings import Settings


def call(settings: Settings, path: str, body: Any = None, *, timeout_s: float = 5.0) -> Any:
    """One request to the Prefect API: GET, or POST of `body` as JSON. Returns the decoded answer.

    Raises OSError where there is none (urllib.error.HTTPError, an OSError too, for an error status).
    """
    url = settings.api_url.rstrip("/") + path
    if urlsplit(url).scheme not in ("http", "https"):
        raise Unready(f"The setting prefect_api_url is no http address: {settings.api_url}")
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310 (checked)
    # Loopback needs no proxy, and must not be asked of one that the environment names.
    opener = urllib.request.build_opener(
        *([] if settings.prefect_api_url else [urllib.request.ProxyHandler({})])
    )
    try:
        with opener.open(request, timeout=timeout_s) as response:
            return json.loads(response.read())
    except (http.client.HTTPException, ValueError) as error:
        raise OSError(f"{url} does not speak Prefect's protocol") from error


def server_daemon(settings: Settings) -> Daemon:
    """The server that `vdc up` starts for these settings."""
    return Daemon(settings.server_pid_file)


def answers(settings: Settings, *, timeout_s: float = 2.0) -> bool:
    """Whether a healthy Prefect server is at `settings.api_url`."""
    try:
        return call(settings, "/health", timeout_s=timeout_s) is True
    except OSError:
        return False


def require_server(settings: Settings) -> None:
    """Raise Unready, with what to type, where no Prefect server answers. Costs milliseconds."""
    if settings.prefect_api_url:
        if not answers(settings):
            raise Unready(
                f"No Prefect server answers at {settings.api_url}: check the setting prefect_api_url."
            )
        return
    # A Prefect server on our port that `vdc up` did not start is somebody else's: our runs are none of its.
    if server_daemon(settings).pid() is None or not answers(settings):
        raise Unready(
            f"No Prefect server answers at {settings.api_url}: start the control plane with `vdc up`."
        )
