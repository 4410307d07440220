"""Asking a guest, through its agent, to do what only it can."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any

import libvirt
import libvirt_qemu

from drivers.hypervisor.power import Caller, not_running
from vdc.errors import Busy, DriverFailure

ANSWER_S = 5
"""How long the agent may take to answer; what it has begun may take longer."""
WATCH_S = 0.5
LOOK_S = 0.1
"""How often a short program is looked at."""
AGAIN_S = 0.5
"""An agent that does not answer is asked again after that: its guest may be booting."""

# What cloud-init does at each boot, as the seed tells it (drivers/seed.py).
_GROW = """
command -v cloud-init >/dev/null || { echo "it has no cloud-init" >&2; exit 1; }
cloud-init single --name growpart --frequency always
cloud-init single --name resizefs --frequency always
"""

_NEWER = ("VIR_ERR_AGENT_COMMAND_TIMEOUT", "VIR_ERR_AGENT_COMMAND_FAILED")
_SILENT = (
    libvirt.VIR_ERR_AGENT_UNRESPONSIVE,
    libvirt.VIR_ERR_AGENT_UNSYNCED,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    # It may not run commands: libvirt hands on what it said.
    libvirt.VIR_ERR_INTERNAL_ERROR,
    # It went off meanwhile.
    libvirt.VIR_ERR_OPERATION_INVALID,
    # Newer libvirts tell more of them apart.
    *(getattr(libvirt, code) for code in _NEWER if hasattr(libvirt, code)),
)


def grow_root(call: Caller, name: str, timeout_s: float) -> str:
    """Have the guest grow its root file system; why it did not, empty where it did, or where it is off."""

    def begin(conn: libvirt.virConnect) -> int | str | None:
        domain = conn.lookupByName(name)
        if not domain.isActive():
            return None
        given = {"path": "/bin/sh", "arg": ["-euc", _GROW], "capture-output": True}
        told = _ask(domain, "guest-exec", given)
        return told if isinstance(told, str) else int(told["pid"])

    begun = call(f"asking the guest of {name} to grow its root", begin)
    if not isinstance(begun, int):
        return begun or ""
    deadline = time.monotonic() + timeout_s
    while True:
        told = call(
            f"asking the guest of {name} whether its root is grown",
            lambda conn: _ask(conn.lookupByName(name), "guest-exec-status", {"pid": begun}),
        )
        if isinstance(told, str):
            return told
        if told["exited"]:
            return _outcome(told)
        if time.monotonic() >= deadline:
            return f"its guest has not done so within {timeout_s:g} s"
        time.sleep(WATCH_S)


def _outcome(told: dict[str, Any]) -> str:
    if told.get("exitcode") == 0:
        return ""
    said = b64decode(told.get("err-data", "")).decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return f"its guest's command failed: {last or told.get('exitcode', 'it was killed')}"


def _ask(domain: libvirt.virDomain, command: str, arguments: dict[str, Any]) -> dict[str, Any] | str:
    """What the agent answers, or why there is no answer. Raises libvirtError where it is not the agent."""
    asked = json.dumps({"execute": command, "arguments": arguments})
    try:
        told: dict[str, Any] = json.loads(libvirt_qemu.qemuAgentCommand(domain, asked, ANSWER_S, 0))
    except libvirt.libvirtError as error:
        if error.get_error_code() not in _SILENT:
            raise
        return f"its guest's agent does not do it: {error.get_error_message().strip().rstrip('.')}"
    answer: dict[str, Any] = told["return"]
    return answer


def run(call: Caller, name: str, host: str, command: Sequence[str], timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    what = f"{' '.join(command)} in the guest of {name}"
    program = {"path": command[0], "arg": list(command[1:]), "capture-output": True}
    pid = _patiently(call, name, host, {"execute": "guest-exec", "arguments": program}, what, deadline)["pid"]
    while True:
        asked = {"execute": "guest-exec-status", "arguments": {"pid": pid}}
        state = _patiently(call, name, host, asked, what, deadline)
        if state["exited"]:
            break
        if time.monotonic() >= deadline:
            raise Busy(f"{host}: {what} has not ended after {timeout_s:g} s.")
        time.sleep(LOOK_S)
    said = {key: b64decode(state.get(f"{key}-data", "")).decode(errors="replace") for key in ("out", "err")}
    if state.get("exitcode") != 0:
        stderr = said["err"].strip() or said["out"].strip() or "no message"
        raise DriverFailure(
            f"{host}: {what} failed with exit code {state.get('exitcode')}: {stderr}",
            host=host,
            command=" ".join(command),
            stderr=stderr,
        )
    return said["out"]


def _patiently(
    call: Caller, name: str, host: str, asked: Mapping[str, object], what: str, deadline: float
) -> dict[str, Any]:
    def ask(conn: libvirt.virConnect) -> str:
        domain = conn.lookupByName(name)
        if not domain.isActive():
            raise not_running(name, host, "asked")
        return str(libvirt_qemu.qemuAgentCommand(domain, json.dumps(asked), ANSWER_S, 0))

    while True:
        try:
            answer: dict[str, Any] = json.loads(call(what, ask))["return"]
            return answer
        except Busy:
            if time.monotonic() >= deadline:
                raise
        time.sleep(AGAIN_S)
