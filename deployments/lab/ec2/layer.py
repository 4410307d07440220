"""What moto lacks of EC2: tokens that are honoured, faults, lost answers, and a boot that takes time.

A WSGI layer in front of moto, in its process. Calls that are no EC2 action of interest pass through. It is
told what to do at `/_lab/...`, which no AWS client asks for:

    POST /_lab/faults   {"call": "RunInstances", "code": "RequestLimitExceeded", "status": 503, "times": 1}
                        more of it: "match": {"InstanceType": "t3.nano"} only such requests;
                        "lose": true: the call takes effect, its answer is lost
    POST /_lab/holds    {"call": "RunInstances"}   such calls take effect, then wait with their answer
    POST /_lab/release  {}                         no fault and no hold any more
    POST /_lab/boot     {"delay_s": 2.0}           from `pending` to `running`
    GET  /_lab/state    {"calls": [...], "held": 0}
"""

from __future__ import annotations

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]
Answer = tuple[str, list[tuple[str, str]], bytes]
Delay = Callable[[str, str, float], None]
"""Keeps the instances named in an answer (region, XML) pending for so many seconds."""

HOLD_LIMIT_S = 120.0
MAX_CALLS = 10_000

PHRASES = {400: "Bad Request", 500: "Internal Server Error", 503: "Service Unavailable"}


def _error(code: str, message: str, status: int) -> Answer:
    body = (
        '<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error>'
        f"<Code>{code}</Code><Message>{message}</Message></Error></Errors>"
        "<RequestID>00000000-0000-4000-8000-000000000000</RequestID></Response>"
    )
    return f"{status} {PHRASES.get(status, 'Error')}", [("Content-Type", "text/xml")], body.encode()


def _json(value: object) -> Answer:
    return "200 OK", [("Content-Type", "application/json")], json.dumps(value).encode()


class LostAnswer(ConnectionError):
    """Raised through the server, whose connection is closed already: there is nobody to answer to."""


class Layer:
    def __init__(self, app: App, delay: Delay | None = None) -> None:
        self._app = app
        self._delay = delay
        self._boot_s = 0.0
        self._answers: dict[str, tuple[frozenset[tuple[str, str]], Answer]] = {}
        self._launching = threading.Lock()
        self._control = threading.Condition()
        self._faults: list[dict[str, Any]] = []
        self._holds: set[str] = set()
        self._held = 0
        self._calls: list[dict[str, str]] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        path = environ.get("PATH_INFO", "")
        if path.startswith("/_lab/"):
            status, headers, content = self._command(path.removeprefix("/_lab/"), body)
        else:
            status, headers, content = self._call(environ, body)
        start_response(status, [*headers, ("Content-Length", str(len(content)))])
        return [content]

    def _command(self, name: str, body: bytes) -> Answer:
        values = json.loads(body) if body else {}
        with self._control:
            if name == "faults":
                self._faults.append({"times": 1, "status": 400, "lose": False, "match": {}} | values)
            elif name == "holds":
                self._holds.add(values["call"])
            elif name == "release":
                self._faults.clear()
                self._holds.clear()
                self._control.notify_all()
            elif name == "boot":
                self._boot_s = float(values["delay_s"])
            elif name != "state":
                return _error("NotFound", f"No such command: {name}", 400)
            return _json({"calls": self._calls, "held": self._held, "faults": self._faults})

    def _call(self, environ: Environ, body: bytes) -> Answer:
        given = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        action = given.get("Action", "")
        fault = self._begin(action, given)
        if fault and not fault["lose"]:
            return _error(fault["code"], f"Injected: {fault['code']}.", int(fault["status"]))
        environ = environ | {"wsgi.input": io.BytesIO(body)}
        answer = self._launch(environ, given) if action == "RunInstances" else self._pass(environ)
        self._hold(action)
        if fault:
            if connection := environ.get("werkzeug.socket"):
                connection.shutdown(socket.SHUT_RDWR)
            raise LostAnswer(f"the answer to {action} is lost, as was asked")
        return answer

    def _begin(self, action: str, given: dict[str, str]) -> dict[str, Any] | None:
        with self._control:
            kept = ("ClientToken", "InstanceType", "Placement.AvailabilityZone", "InstanceId.1")
            self._calls.append({"Action": action} | {k: given[k] for k in kept if k in given})
            del self._calls[:-MAX_CALLS]
            for fault in self._faults:
                if fault["call"] == action and fault["match"].items() <= given.items():
                    fault["times"] -= 1
                    if fault["times"] <= 0:
                        self._faults.remove(fault)
                    return fault
        return None

    def _hold(self, action: str) -> None:
        deadline = time.monotonic() + HOLD_LIMIT_S
        with self._control:
            if action not in self._holds:
                return
            self._held += 1
            while action in self._holds and time.monotonic() < deadline:
                self._control.wait(1.0)
            self._held -= 1

    def _pass(self, environ: Environ) -> Answer:
        seen: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[[bytes], None]:
            seen[:] = [status, headers]
            return lambda _: None

        chunks = self._app(environ, start_response)
        try:
            content = b"".join(chunks)
        finally:
            close = getattr(chunks, "close", None)
            if close:
                close()
        headers = [(k, v) for k, v in seen[1] if k.lower() != "content-length"]
        return seen[0], headers, content

    def _launch(self, environ: Environ, given: dict[str, str]) -> Answer:
        """Same token, same parameters: the same answer. Other parameters: refused, as EC2 does."""
        token = given.get("ClientToken", "")
        parameters = frozenset(given.items())
        with self._launching:  # two calls with one token at once launch once
            if token and token in self._answers:
                before, answer = self._answers[token]
                if before == parameters:
                    return answer
                return _error(
                    "IdempotentParameterMismatch",
                    "The client token was used with other parameters.",
                    400,
                )
            answer = self._pass(environ)
            if answer[0].startswith("200"):
                if token:
                    self._answers[token] = (parameters, answer)
                if self._boot_s and self._delay:
                    region = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2]
                    self._delay(region.split("/")[2], answer[2].decode(), self._boot_s)
            return answer
