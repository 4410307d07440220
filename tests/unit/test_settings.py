"""Settings: where they come from, which wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vdc.errors import Invalid
from vdc.settings import load


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("VDC_DATABASE_URL", "VDC_PREFECT_PORT", "VDC_PREFECT_API_URL", "VDC_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VDC_HOME", str(tmp_path))
    return tmp_path


def test_defaults_lie_in_the_home_directory(home: Path) -> None:
    settings = load()
    assert settings.home == home
    assert settings.inventory_url == f"sqlite:///{home}/inventory.db"
    assert settings.api_url == "http://127.0.0.1:4200/api"
    assert settings.prefect_home.is_relative_to(home)
    assert settings.ssh_dir.is_relative_to(home)


def test_a_port_moves_the_address_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_PREFECT_PORT", "4999")
    assert load().api_url == "http://127.0.0.1:4999/api"


def test_a_server_of_ones_own_wins_over_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_PREFECT_PORT", "4999")
    monkeypatch.setenv("VDC_PREFECT_API_URL", "https://prefect.example/api")
    assert load().api_url == "https://prefect.example/api"


def test_the_environment_wins_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "vdc.toml").write_text('prefect_port = 4301\nretries = 7\ndatabase_url = "sqlite:///x.db"\n')
    monkeypatch.setenv("VDC_PREFECT_PORT", "4302")
    settings = load()
    assert (settings.prefect_port, settings.retries) == (4302, 7)
    assert settings.inventory_url == "sqlite:///x.db"


def test_a_misspelt_setting_is_refused_with_the_known_names(home: Path) -> None:
    (home / "vdc.toml").write_text("prefect_prot = 1\n")
    with pytest.raises(Invalid, match=r"prefect_prot.*prefect_port"):
        load()


def test_a_value_of_the_wrong_type_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VDC_RETRIES", "often")
    with pytest.raises(Invalid, match="retries"):
        load()


def test_a_broken_file_is_refused_by_name(home: Path) -> None:
    (home / "vdc.toml").write_text("= nothing")
    with pytest.raises(Invalid, match=r"vdc\.toml"):
        load()
