"""The one place where an error becomes a sentence and an exit code.

===  ==========================================================================
0    done
1    the operation failed (and what nobody expected: with the path of a log file)
2    usage: not a command, not an option, a missing argument
3    refused: nothing was touched
130  interrupted
141  the reader of a pipe went away, as for any program that SIGPIPE ends
===  ==========================================================================

With `--json` the error is on stdout too: `{"error": {"kind": "NotFound", "message": "..."}}`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from interfaces.cli.output import note, print_json
from vdc.errors import Refused, VdcError
from vdc.settings import load

FAILED, USAGE, REFUSED, INTERRUPTED, BROKEN_PIPE = 1, 2, 3, 130, 141


def guarded(
    run: Callable[[], Any],
    arguments: Sequence[str],
    refused: Callable[[Refused], None] = lambda error: None,
) -> int:
    """Run a click command (`standalone_mode=False`) and return the exit code; never raises.

    `refused` is told of what was refused.
    """
    as_json = "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)
    try:
        try:
            code = run()
        finally:
            # Here, not at the interpreter's end, so that a reader who went away is noticed.
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # `vdc vm list | head`: nobody reads any more, and the interpreter must not try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except SystemExit as error:
        # Only click's: it ends so, quietly, when the reader went away while it printed.
        return BROKEN_PIPE if error.code == 1 else USAGE
    except (click.Abort, KeyboardInterrupt):
        note("Interrupted.")
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        if as_json:
            print_json({"error": {"kind": "Usage", "message": error.format_message()}})
        error.show()
        return error.exit_code
    except VdcError as error:
        if isinstance(error, Refused):
            refused(error)
        return _explained(error, as_json)
    except Exception as error:  # noqa: BLE001 (the last resort: it is written to a log)
        return _unexpected(error, arguments, as_json)


def exit_code(error: VdcError) -> int:
    return REFUSED if isinstance(error, Refused) else FAILED


def describe(error: VdcError) -> dict[str, Any]:
    """The error as it appears in JSON."""
    seen: dict[str, Any] = {"kind": type(error).__name__, "message": str(error)}
    # What else it carries: a failed driver's host, command and stderr, a failed operation's id and machines.
    return seen | {
        name: value for name, value in vars(error).items() if isinstance(value, (str, list)) and value
    }


def _explained(error: VdcError, as_json: bool) -> int:
    if as_json:
        print_json({"error": describe(error)})
    note(f"{'Refused' if isinstance(error, Refused) else 'Failed'}: {error}")
    return exit_code(error)


def _unexpected(error: Exception, arguments: Sequence[str], as_json: bool) -> int:
    message = f"Unexpected {type(error).__name__}: {_first_line(error)} (details: {_log(error, arguments)})"
    if as_json:
        print_json({"error": {"kind": "Unexpected", "message": message}})
    note(message)
    return FAILED


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]


def _log(error: Exception, arguments: Sequence[str]) -> Path:
    """Append the traceback to a file that only its owner may read, and return where it is."""
    try:
        directory = load().home / "log"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, VdcError):
        directory = Path(tempfile.mkdtemp(prefix="vdc-"))
    file = directory / "cli-errors.log"
    when = datetime.now(UTC).isoformat(timespec="seconds")
    text = "".join(traceback.format_exception(error))
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a") as log:
            log.write(f"{when} vdc {' '.join(arguments)}\n{text}\n")
    except OSError:
        sys.stderr.write(text)
    return file
