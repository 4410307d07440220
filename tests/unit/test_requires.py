"""What cannot run here is skipped with the missing thing named, and fails where everything is required."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests import lab_fixture, postgres


@pytest.fixture(params=[("0", pytest.skip.Exception), ("1", pytest.fail.Exception)], ids=["skip", "fail"])
def outcome(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[BaseException]:
    required, exception = request.param
    monkeypatch.setenv("VDC_REQUIRE_ALL", required)
    kind: type[BaseException] = exception
    return kind


def test_lab_names_the_missing_package(outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(
        shutil, "which", lambda program, path=None: None if program == "ovs-vsctl" else program
    )
    with pytest.raises(outcome, match="Debian package: openvswitch-switch"):
        lab_fixture.require_lab()


def test_lab_needs_root(outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(outcome, match="needs root"):
        lab_fixture.require_lab()


def test_postgres_names_the_missing_package(
    outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(()))
    with pytest.raises(outcome, match="Debian package: postgresql"), postgres.running_server():
        pass
