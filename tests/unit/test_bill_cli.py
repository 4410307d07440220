"""`vdc bill verify`, `explain` and `credit` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.unit.ledger import Ledger
from tests.unit.test_credit import HISTORY
from vdc.inventory import write_session
from vdc.schema import Bill


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    made = Ledger.create(tmp_path)
    made.write(*HISTORY)
    made.issue("2026-10")
    return made


def vdc(*arguments: str) -> int:
    return guarded(lambda: cli.main(list(arguments), standalone_mode=False), arguments)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert vdc(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_line_is_explained_then_given_back_then_all_is_verified(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = told(capsys, "bill", "explain", "1/1")
    assert [event["requested_by"] for event in line["events"]] == ["ada"] * 3
    asked = ("bill", "credit", "create", "1", "--line", "1=1.00", "--line", "3", "--reason", "h2 was lost")
    planned = told(capsys, *asked, "--plan")
    assert (planned["number"], planned["total"]) == (None, "1.28")
    assert told(capsys, "bill", "credit", "list") == []
    issued = told(capsys, *asked, "--out", str(tmp_path / "out"))
    assert (issued["number"], issued["bill"], issued["total"]) == (1, 1, "1.28")
    assert told(capsys, "bill", "list")[0]["credited"] == "1.28"
    shown = told(capsys, "bill", "credit", "show", "1")
    assert (tmp_path / "out" / "credit-note-1-acme-2026-10.json").is_file()
    assert shown["document"]["bill_sha256"] == told(capsys, "bill", "show", "1")["sha256"]
    assert [row["problems"] for row in told(capsys, "bill", "verify")] == [[], []]


def test_verify_says_what_is_wrong_and_ends_with_1(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with write_session(ledger.url) as session:
        session.execute(update(Bill).values(month="2026-09"))
    assert vdc("bill", "verify") == 1
    out = capsys.readouterr().out
    assert "its month is 2026-10, the inventory says 2026-09" in out
    assert "1 of 1 are wrong." in out
    file = tmp_path / "note.json"
    file.write_text("{}")
    assert vdc("bill", "verify", str(file)) == 1
    assert "it is no bill" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("explain", "1/4"), "Bill 1 of tenant acme has no line 4"),
        (("explain", "2/1"), "There is no bill 2"),
        (("explain", "1"), "17/3 is line 3 of bill 17"),
        (("explain", "1/1", "--tenant", "acme"), "17/3 is line 3 of bill 17"),
        (("explain", "1", "--tenant", "nobody"), "no tenant 'nobody'"),
        (("explain", "1", "--tenant", "acme", "--month", "2099-01"), "has not begun"),
        (("credit", "create", "1", "--reason", "x"), "--line for each, or --all"),
        (("credit", "create", "1", "--reason", "x", "--all", "--line", "1"), "--line for each, or --all"),
        (("credit", "create", "1", "--reason", "x", "--line", "1=x"), "give 3, or 3=1.20"),
        (("credit", "create", "1", "--reason", "x", "--line", "1", "--line", "1=2"), "is there twice"),
        (("credit", "create", "1", "--reason", "x", "--line", "1=7"), "more than the 6.73 that is left"),
        (("credit", "create", "1", "--reason", " ", "--all"), "needs a reason"),
        (("credit", "show", "1"), "There is no credit note 1"),
        (("credit", "list", "--bill", "7"), "There is no bill 7"),
        (("verify", "/nowhere.json"), "/nowhere.json cannot be read"),
    ],
)
def test_what_cannot_be_is_refused(
    ledger: Ledger, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    assert vdc("bill", *arguments) == 3
    assert says in capsys.readouterr().err
