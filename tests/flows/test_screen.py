"""`vdc vm console` and `vdc vm vnc` at a simulated machine: the terminal is restored, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.flows import run
from tests.flows.site import Site
from tests.typist import typing

pytestmark = pytest.mark.prefect


@pytest.fixture
def web(site: Site) -> Site:
    run.deploy(count=1, name="web")
    return site


def vdc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interfaces.cli.main", "vm", *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )


def test_keys_go_in_and_output_comes_out(web: Site) -> None:
    with typing(["vm", "console", "web"], os.environ) as terminal:
        assert b"Ctrl-] ends it." in terminal.wait_for(b"simulated console of vm-")
        terminal.wait_for(b"\r\n")
        terminal.type(b"hello\r\x03")
        assert terminal.wait_for(b"hello\r\n\x03"), "Ctrl-C is the guest's"
        terminal.type(b"bye\x1dnot sent")
        assert b"bye" in terminal.wait_for(b"Detached from web.")
        assert terminal.end() == 0
        assert b"not sent" not in terminal.seen
        assert terminal.attributes() == terminal.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_restored_when_it_is_killed(web: Site, number: int) -> None:
    with typing(["vm", "console", "web"], os.environ) as terminal:
        terminal.wait_for(b"simulated console of vm-")
        terminal.type(b"x")
        terminal.wait_for(b"x")
        assert terminal.attributes() != terminal.before
        terminal.process.send_signal(number)
        assert terminal.end() == 130
        assert terminal.attributes() == terminal.before


def test_what_cannot_be_seen_is_refused(web: Site) -> None:
    no_terminal = vdc("console", "web")
    assert (no_terminal.returncode, no_terminal.stdout) == (3, "")
    assert "needs a terminal" in no_terminal.stderr
    run.power("stop", "web")
    for command in ("console", "vnc"):
        with typing(["vm", command, "web"], os.environ) as terminal:
            terminal.wait_for(f"Machine web is stopped: `{command}` is for a machine that is".encode())
            assert terminal.end() == 3
            assert terminal.attributes() == terminal.before
        with typing(["vm", command, "nobody"], os.environ) as terminal:
            terminal.wait_for(b"There is no machine 'nobody'")
            assert terminal.end() == 3


def test_where_the_screen_listens(web: Site) -> None:
    seen = vdc("vnc", "web", "--json")
    assert json.loads(seen.stdout) == {"name": "web", "host": "h1", "address": "127.0.0.1", "port": 5900}
    tunnel = vdc("vnc", "web", "--tunnel")
    assert tunnel.returncode == 3, "a simulated host has no SSH"
    assert "does not name an SSH server" in tunnel.stderr
