"""Whose environment wins: ours where it decides which server is used, the operator's where it is tuning."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deployments.control.prefect_env import apply, client_env, server_env
from vdc.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, prefect_port=4999)


def test_no_other_server_is_ever_used(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "https://elsewhere.example/api")
    monkeypatch.setenv("PREFECT_SERVER_EPHEMERAL_ENABLED", "true")
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    env = client_env(settings)
    assert env["PREFECT_API_URL"] == "http://127.0.0.1:4999/api"
    assert env["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"
    assert env["DO_NOT_TRACK"] == "1"


def test_the_operator_may_tune(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS", "8")
    assert client_env(settings)["PREFECT_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS"] == "8"
    name = "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE"
    assert server_env(settings, {})[name] == "500"
    assert server_env(settings, {name: "50"})[name] == "50"


def test_the_server_stays_on_loopback_and_keeps_its_own_files(settings: Settings) -> None:
    env = server_env(settings, {"PREFECT_SERVER_API_HOST": "0.0.0.0", "PREFECT_HOME": "/elsewhere"})
    assert env["PREFECT_SERVER_API_HOST"] == "127.0.0.1"
    assert env["PREFECT_HOME"] == str(settings.prefect_home)
    assert env["PREFECT_SERVER_UI_API_URL"] == "http://127.0.0.1:4999/api"


def test_an_empty_password_locks_nobody_out(settings: Settings) -> None:
    assert "PREFECT_SERVER_API_AUTH_STRING" not in server_env(
        settings, {"PREFECT_SERVER_API_AUTH_STRING": ""}
    )


def test_a_client_variable_of_the_caller_is_not_the_servers(settings: Settings) -> None:
    env = server_env(settings, {"PREFECT_PROFILE": "mine", "PREFECT_API_KEY": "k", "PATH": "/bin"})
    assert "PREFECT_PROFILE" not in env
    assert "PREFECT_API_KEY" not in env
    assert env["PATH"] == "/bin"


def test_too_late_is_an_error(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect", sys)
    with pytest.raises(RuntimeError, match="before prefect is imported"):
        apply(settings)


def test_a_second_flow_of_a_command_finds_all_as_the_first_left_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    apply(settings)
    monkeypatch.setitem(sys.modules, "prefect", sys)
    apply(settings)
    with pytest.raises(RuntimeError, match="before prefect is imported"):
        apply(Settings(home=settings.home, prefect_port=5000))


def test_authorities_are_left_out_on_plain_http_only(tmp_path: Path) -> None:
    local = client_env(Settings(home=tmp_path))
    assert Path(local["PREFECT_API_SSL_CERT_FILE"]).read_text().startswith("-----BEGIN CERTIFICATE-----")
    far = client_env(Settings(home=tmp_path, prefect_api_url="https://prefect.example/api"))
    assert "PREFECT_API_SSL_CERT_FILE" not in far
