"""What is printed: whole when piped, one row a line, JSON with plain values."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from interfaces.cli.output import bar, human_mib, print_json, print_table

ROWS = [{"name": "web", "vcpu": 2, "host": None}, {"name": "n" * 300, "vcpu": 16, "host": "h1"}]


def test_a_piped_table_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["name", "vcpu", ("host", "ON")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "VCPU", "ON"]
    assert lines[1].split() == ["web", "2", "-"]
    assert lines[2].split() == ["n" * 300, "16", "h1"]
    assert "\x1b" not in "".join(lines)


def test_numbers_are_aligned_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["vcpu", "name"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("   2  web")


def test_a_name_with_control_characters_stays_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([{"name": "a\nb\x1b[2J"}], ["name"])
    assert capsys.readouterr().out.splitlines()[1] == "a?b?[2J"


def test_on_a_terminal_a_line_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    print_table(ROWS, ["name", "vcpu", "host"])
    shown = capsys.readouterr().out
    assert "…" in shown
    assert "n" * 41 not in shown


def test_no_rows_leave_stdout_empty(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], ["name"], empty="No machines.")
    seen = capsys.readouterr()
    assert (seen.out, seen.err) == ("", "No machines.\n")


def test_json_has_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    when = datetime(2026, 11, 22, tzinfo=UTC)
    print_json([{"when": when, "file": Path("/x"), "tags": {"b", "a"}, "name": "ü"}])
    printed = capsys.readouterr().out
    assert "ü" in printed
    assert json.loads(printed) == [
        {"when": "2026-11-22T00:00:00+00:00", "file": "/x", "tags": ["a", "b"], "name": "ü"}
    ]


@pytest.mark.parametrize(
    ("mib", "text"), [(0, "0 MiB"), (512, "512 MiB"), (1536, "1.5 GiB"), (2 * 1024**2, "2 TiB")]
)
def test_sizes(mib: int, text: str) -> None:
    assert human_mib(mib) == text


def test_a_bar_of_nothing_is_empty() -> None:
    assert bar(3, 10).startswith("███·")
    assert bar(1, 0) == "·" * 10 + "   0%"
    assert bar(20, 10).startswith("█" * 10)
