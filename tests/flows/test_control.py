"""`vdc up`, `down` and `status` with a real Prefect server, as an operator types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.control.process import Daemon, start_time
from tests.flows.operator import Operator
from tests.prefect_fixture import give_database
from vdc.settings import Settings

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    someone = Operator(tmp_path)
    give_database(Settings(home=tmp_path, prefect_port=int(someone.env["VDC_PREFECT_PORT"])))
    try:
        yield someone
    finally:
        someone.done("down")


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while start_time(pid) is not None:
        assert time.monotonic() < deadline, f"process {pid} still lives"
        time.sleep(0.02)


def test_into_service_and_out_again(operator: Operator) -> None:
    before = json.loads(operator.done("status", "--json"))
    assert before["server"]["up"] is False
    assert before["inventory"]["revision"] is None

    assert "http://127.0.0.1:" in operator.done("up")
    first = json.loads(operator.done("status", "--json"))
    assert first["server"]["up"] is True
    assert first["server"]["ui_url"].endswith(operator.env["VDC_PREFECT_PORT"])
    assert first["inventory"]["problem"] is None
    assert (first["hosts"], first["vms"], first["open_operations"]) == (0, 0, 0)
    assert (operator.home / "ssh" / "id_ed25519").exists()

    assert "already" in operator.done("up")
    assert operator.pid() == first["server"]["pid"]

    # kill -9: the next `up` starts another, on the same port, with the same data.
    os.kill(operator.pid(), signal.SIGKILL)
    _wait_gone(first["server"]["pid"])
    assert operator.server()["up"] is False
    operator.done("up")
    second = operator.pid()
    assert second != first["server"]["pid"]

    operator.done("down")
    assert start_time(second) is None
    assert _using(operator.home) == []
    assert operator.server()["up"] is False
    assert "No Prefect server" in operator.done("down")


def test_a_port_of_somebody_else_is_refused(operator: Operator) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(operator.env["VDC_PREFECT_PORT"])))
        other.listen()
        refused = operator.vdc("up", "--json")
    assert refused.returncode == 3
    assert "VDC_PREFECT_PORT" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert json.loads(refused.stdout)["error"]["kind"] == "Conflict"
    assert operator.server()["pid"] is None


def test_a_server_that_cannot_start_is_told_with_its_last_words(operator: Operator) -> None:
    operator.env["PREFECT_SERVER_DATABASE_TIMEOUT"] = "soon"
    failed = operator.vdc("up")
    assert failed.returncode == 1
    assert "prefect-server.log" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_recycled_process_id_is_left_alone(operator: Operator) -> None:
    """The pid file of a server from before a reboot names a process that is somebody else's now."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as somebody:
        try:
            file = operator.home / "run" / "prefect-server.json"
            file.parent.mkdir(parents=True)
            true = {"pid": somebody.pid, "start_time": start_time(somebody.pid), "boot_id": "another"}
            for seen in (true, true | {"start_time": 1}, {"pid": somebody.pid}, "nonsense"):
                file.write_text(json.dumps(seen))
                assert Daemon(file).pid() is None
                operator.done("down")
                assert somebody.poll() is None
        finally:
            somebody.kill()


def _using(home: Path) -> list[str]:
    """Command lines of all processes that have a file below `home` open or as their directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            links = [process / "cwd", *(process / "fd").iterdir()]
            paths = [str(link.readlink()) for link in links]
            if any(path.startswith(str(home)) for path in paths):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found
