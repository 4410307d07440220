"""`vdc vm console` and `vdc vm vnc` at a simulated machine: the terminal is restored, whatever happens."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows import run
from tests.flows.site import Site, once
from tests.typist import typing


class Typed(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
@once
def web(site: Site) -> Site:
    run.deploy(count=1, name="web")
    return site


@pytest.fixture
def vdc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Typed]:
    """Types `vdc vm ...` in this process."""
    monkeypatch.setattr("interfaces.cli.running.use_prefect", lambda: None)

    def typed(*arguments: str) -> Typed:
        given = ["vm", *arguments]
        code = guarded(lambda: cli.main(given, prog_name="vdc", standalone_mode=False), given)
        return Typed(code, *capsys.readouterr())

    return typed


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


def test_what_cannot_be_seen_is_refused(
    web: Site, vdc: Callable[..., Typed], monkeypatch: pytest.MonkeyPatch
) -> None:
    no_terminal = vdc("console", "web")
    assert (no_terminal.code, no_terminal.out) == (3, "")
    assert "needs a terminal" in no_terminal.err
    run.power("stop", "web")
    with typing(["vm", "console", "web"], os.environ) as terminal:
        terminal.wait_for(b"Machine web is stopped: `console` is for a machine that is")
        assert terminal.end() == 3
        assert terminal.attributes() == terminal.before
    monkeypatch.setattr("interfaces.cli.terminal.is_terminal", lambda: True)
    for command in ("console", "vnc"):
        stopped, nobody = vdc(command, "web"), vdc(command, "nobody")
        assert (stopped.code, nobody.code) == (3, 3)
        assert f"Machine web is stopped: `{command}` is for a machine that is" in stopped.err
        assert "There is no machine 'nobody'" in nobody.err


def test_where_the_screen_listens(web: Site, vdc: Callable[..., Typed]) -> None:
    seen = vdc("vnc", "web", "--json")
    assert json.loads(seen.out) == {"name": "web", "host": "h1", "address": "127.0.0.1", "port": 5900}
    tunnel = vdc("vnc", "web", "--tunnel")
    assert tunnel.code == 3, "a simulated host has no SSH"
    assert "does not name an SSH server" in tunnel.err
