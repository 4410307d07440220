"""The welcome sheet: all that a customer needs to begin, on a page and in plain text, and nothing secret."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows.site import ACTOR, Site
from vdc import passwords
from vdc.claims.deploy import claim_deploy
from vdc.inventory import write_session
from vdc.onboarding import onboard, parse
from vdc.pricing import ListPrices
from vdc.requests import DeployRequest
from vdc.schema import Tenant

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGluZGlzdGluZ3Vpc2hhYmxlZnJvbWFyZWFsb25lISE= alice@acme"
PRINT = "SHA256:jFw+H2PJ8oxdAKHQ22ozRSpZ4Dp2XVRuN3mrLpTw/So"
PASSWORD = "correct horse battery"
NAME = "Acme & <b>Sons</b>"


@pytest.fixture
def hashed() -> str:
    return passwords.hash_password(PASSWORD)


@pytest.fixture
def site(tmp_path: Path, hashed: str, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site.create(tmp_path)
    values = {
        "tenant": "acme",
        "time_zone": "Europe/Madrid",
        "quota": {"vms": 20},
        "user": {"name": "alice", "password_hash": hashed, "ssh_keys": [KEY]},
        "users": [{"name": "bob"}],
        "network": {"cidr": "10.20.0.0/24", "gateway": "10.20.0.1", "dns": ["10.20.0.53"]},
        "template": {"name": "web", "image": "tiny", "memory_mib": 1536, "start_script": "echo classified"},
        "context": {"users": [{"name": "deploy", "ssh_keys": [KEY]}, {"name": "nobody"}]},
        "security_groups": [{"name": "db", "rules": ["in tcp 5432 from group db"]}],
    }
    with write_session(made.url) as session:
        wanted = parse(yaml.safe_dump(values), "acme.yaml")
        onboard(session, wanted, uplink=made.sim.network_uri(), vlans="1000-1999", actor=ACTOR)
        session.query(Tenant).filter_by(name="acme").update({"legal_name": NAME})
        asked = DeployRequest(template="acme-web", tenant="acme", name="web-1")
        claim_deploy(session, asked, actor=ACTOR, prices=ListPrices())
    monkeypatch.setenv("VDC_DATABASE_URL", made.url)
    monkeypatch.setenv("VDC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VDC_SELLER_NAME", "Example Hosting")
    monkeypatch.setenv("VDC_SELLER_CONTACT", "support@hosting.example")
    return made


def _vdc(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capsys.readouterr()
    code = guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)
    seen = capsys.readouterr()
    return code, seen.out + seen.err


class _Words(HTMLParser):
    """What a person reads on a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] != ["style"]:
            self.text += data


NEEDED = (
    "alice",
    "administers all that is yours",
    "with the password that you are told",
    "bob",
    "with a token that you are given",
    PRINT,
    "acme-net",
    "10.20.0.0/24",
    "10.20.0.53",
    "in tcp 5432 from group db",
    "web-1",
    "10.20.0.2",
    "ssh root@10.20.0.2",
    "ssh deploy@10.20.0.2",
    "vdc login alice",
    "1 vCPU, 1.5 GiB, disk 64 MiB",
    "vdc vm deploy --template acme-web --name NAME",
    "10.22 EUR",
    "0.0080",
    "GiB month",
    "Europe/Madrid",
    "support@hosting.example",
    "Example Hosting",
)


def test_it_says_all_that_is_needed_in_both_forms(
    site: Site, tmp_path: Path, hashed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheets"
    assert _vdc(capsys, "tenant", "welcome", "acme", "--out", str(out)) == (
        0,
        f"{out}/acme.html\n{out}/acme.txt\n",
    )
    page, text = ((out / f"acme.{kind}").read_text() for kind in ("html", "txt"))
    read = _Words()
    read.feed(page)
    for needed in NEEDED:
        assert needed in " ".join(read.text.split()), needed
        assert needed in text, needed
    assert (NAME in text, NAME in page, NAME in read.text) == (True, False, True), "escaped in the page alone"
    for secret in (hashed, PASSWORD, "classified", KEY.split()[1], "ssh nobody@"):
        assert secret not in page + text
    assert not re.search(r"(src|href)=|url\(|@import", page), "nothing is fetched"
    assert max(map(len, text.splitlines())) <= 79
    assert text.endswith("\n")
    assert not re.search(r"\n{3}", text)


def test_it_is_for_people_and_programs_and_refused_where_it_cannot_be(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = _vdc(capsys, "tenant", "welcome", "acme", "--json")
    facts = json.loads(said)
    assert (code, facts["quota"]) == (0, [{"what": "machines", "used": 1, "limit": 20}])
    assert _vdc(capsys, "tenant", "welcome", "acme")[1].startswith("WELCOME, Acme")
    (tmp_path / "file").write_text("")
    code, said = _vdc(capsys, "tenant", "welcome", "acme", "--out", str(tmp_path / "file" / "x"))
    assert (code, "is no directory" in said) == (3, True)
    assert _vdc(capsys, "tenant", "welcome", "none")[0] == 3


def test_of_a_tenant_with_nothing_it_is_whole_too(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert _vdc(capsys, "tenant", "create", "bare")[0] == 0
    code, said = _vdc(capsys, "tenant", "welcome", "bare")
    assert code == 0
    assert "None yet." in said
    assert "No limit was set." in said
