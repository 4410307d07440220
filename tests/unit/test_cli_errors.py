"""What a user sees of an error: one sentence, an exit code, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from interfaces.cli.errors import guarded
from vdc import errors


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    return tmp_path


def _raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


CASES: list[tuple[BaseException, int]] = [
    (errors.Invalid("m"), 3),
    (errors.NotFound("m"), 3),
    (errors.InvalidState("m"), 3),
    (errors.Conflict("m"), 3),
    (errors.QuotaExceeded("m"), 3),
    (errors.NoCapacity("m"), 3),
    (errors.Forbidden("m"), 3),
    (errors.Unsupported("m"), 3),
    (errors.Unready("m"), 3),
    (errors.HostUnreachable("m"), 1),
    (errors.Busy("m"), 1),
    (errors.TimedOut("m"), 1),
    (errors.Throttled("m"), 1),
    (errors.DriverFailure("m", host="h1"), 1),
    (errors.OperationFailed("m", "id"), 1),
    (errors.GuestKeeps("m", "id"), 1),
    (errors.Superseded("m"), 1),
    (click.UsageError("m"), 2),
    (KeyboardInterrupt(), 130),
    (click.Abort(), 130),
]


@pytest.mark.parametrize(("error", "code"), CASES, ids=[type(error).__name__ for error, _ in CASES])
def test_exit_codes(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(_raising(error), []) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err
    assert "Traceback" not in seen.err


def test_every_error_of_ours_is_in_the_table_above() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    leaves = {kind for kind in kinds if issubclass(kind, errors.VdcError) and not kind.__subclasses__()}
    assert leaves <= {type(error) for error, _ in CASES}


def test_the_sentence_says_that_nothing_was_touched(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(_raising(errors.NotFound("There is no template 'huge'.")), ["vm", "deploy"])
    assert capsys.readouterr().err == "Refused: There is no template 'huge'.\n"


def test_json_errors_are_on_stdout_too(capsys: pytest.CaptureFixture[str]) -> None:
    failure = errors.DriverFailure("Cannot clone.", host="h1", command="qemu-img", stderr="no space")
    guarded(_raising(failure), ["vm", "list", "--json"])
    seen = capsys.readouterr()
    assert json.loads(seen.out) == {
        "error": {
            "kind": "DriverFailure",
            "message": "Cannot clone.",
            "host": "h1",
            "command": "qemu-img",
            "stderr": "no space",
        }
    }
    assert "Cannot clone." in seen.err


def test_an_argument_that_looks_like_the_option_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    guarded(_raising(errors.NotFound("m")), ["vm", "show", "--", "--json"])
    assert capsys.readouterr().out == ""


def test_the_unexpected_leaves_its_traceback_in_a_private_log(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guarded(_raising(ZeroDivisionError("by\nzero")), ["bill"]) == 1
    seen = capsys.readouterr().err
    log = home / "log" / "cli-errors.log"
    assert str(log) in seen
    assert seen.count("\n") == 1
    assert "Traceback" not in seen
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_without_a_home_the_log_is_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "vdc.toml").write_text("nonsense = 1")
    assert guarded(_raising(ZeroDivisionError()), []) == 1
    path = capsys.readouterr().err.rpartition("details: ")[2].rstrip(")\n")
    assert "ZeroDivisionError" in Path(path).read_text()


def _vdc(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "interfaces.cli.main", *arguments],
        env={**os.environ, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


TWO_KINDS = ("vm", "snapshot", "create", "web", "--memory", "--disk-only")


def test_usage() -> None:
    for arguments in (("nonsense",), ("--nonsense",), ("status", "extra"), TWO_KINDS):
        done = _vdc(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
    done = _vdc("status", "--json", "extra")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["kind"] == "Usage"


def test_settings_that_are_wrong_are_refused() -> None:
    done = _vdc("status", VDC_PREFECT_PORT="many")
    assert done.returncode == 3
    assert "prefect_port" in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "interfaces.cli.main", "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141
