"""What machines are told: four levels, hostile templates, and secrets that are nowhere to be seen."""

from __future__ import annotations

import io
import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import select

from drivers.cloud.user_data import user_data
from drivers.seed import seed_files
from interfaces.cli.errors import guarded
from interfaces.cli.main import cli
from tests.flows.site import ACTOR, Site
from vdc import secrets, specs
from vdc.catalog import create_template, create_tenant
from vdc.claims.deploy import claim_deploy
from vdc.claims.giving import give
from vdc.context import read_context
from vdc.context_levels import set_context
from vdc.errors import DriverFailure, Invalid, InvalidState, Unready
from vdc.inventory import read_session, write_session
from vdc.model import ContextSpec, GuestFile, GuestUser
from vdc.pricing import ListPrices
from vdc.rendering import Renderer
from vdc.requests import DeployRequest
from vdc.schema import Operation, Share, Template, Tenant, Vm

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGluZGlzdGluZ3Vpc2hhYmxlZnJvbWFyZWFsb25lISE= a@b"
WORD = "correct-horse-battery"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site.create(tmp_path)
    with write_session(made.url) as session:
        for tenant in ("acme", "bolt"):
            create_tenant(session, tenant, actor=ACTOR)
        create_template(
            session,
            "web",
            image="tiny",
            vcpu=1,
            memory_mib=16,
            vnets=["blue"],
            ssh_keys=[KEY],
            tenant="acme",
            actor=ACTOR,
        )
    return made


def _set(site: Site, content: dict[str, Any], **level: str) -> None:
    with write_session(site.url) as session:
        set_context(session, read_context(content, "it"), **level, actor=ACTOR)


def _deploy(site: Site, context: dict[str, Any] | None = None, **request: Any) -> list[ContextSpec]:
    asked = DeployRequest(**{"template": "web", "tenant": "acme"} | request)
    with write_session(site.url) as session:
        own = read_context(context, "the machine")
        made = claim_deploy(session, asked, actor=ACTOR, prices=ListPrices(), context=own)
    return [spec.context for spec in made.claimed]


def _secret(site: Site, name: str, value: str, tenant: str = "") -> bytes:
    key = secrets.key(Path(site.url.removeprefix("sqlite:///")).with_name("secrets.key"), make=True)
    with write_session(site.url) as session:
        secrets.set_secret(session, name, value, tenant, with_key=key, actor=ACTOR)
    return key


def test_the_more_particular_level_wins_and_texts_know_the_machine(site: Site) -> None:
    motd = {"path": "/etc/motd", "content": "{{ name }} of {{ tenant }}, {{ values.city }}\n"}
    site_level = {"values": {"city": "Madrid", "port": 80}, "packages": ["chrony"], "files": [motd]}
    _set(site, site_level | {"cloud_init": {"timezone": "UTC", "locale": "C.UTF-8"}})
    users = [{"name": "ops", "sudo": True}, {"name": "app"}]
    _set(site, {"values": {"city": "Bilbao"}, "users": users, "packages": ["chrony", "nginx"]}, tenant="acme")
    own = {"path": "/etc/net", "content": "{{ address }}/{{ addresses[0].prefix }} {{ values.port }}\n"}
    script = "{% if name == 'web-2' %}\necho second\n{% endif %}\n"
    _set(
        site,
        {"files": [own], "start_script": script, "users": [{"name": "app", "shell": "/bin/sh"}]},
        template="web",
    )
    first, second = _deploy(
        site, {"cloud_init": {"timezone": "Europe/{{ values.city }}"}}, name="web", count=2
    )
    assert first.users == (GuestUser("ops", sudo=True), GuestUser("app", shell="/bin/sh"))
    assert first.packages == ("chrony", "nginx")
    assert first.ssh_keys == (KEY,)
    assert first.files == (
        GuestFile("/etc/motd", "web-1 of acme, Bilbao\n"),
        GuestFile("/etc/net", "10.1.0.1/24 80\n"),
    )
    assert second.files[1].content == "10.1.0.2/24 80\n"
    assert json.loads(second.cloud_init) == {"timezone": "Europe/Bilbao", "locale": "C.UTF-8"}
    assert (first.start_script, second.start_script) == ("", "echo second\n")
    other = _deploy(site, template="tiny", tenant="bolt")[0]
    assert other.files[0].content.endswith(" of bolt, Madrid\n"), "another tenant's is not for it"
    assert other.users == ()


def test_the_example_of_the_documentation_is_one() -> None:
    page = (Path(__file__).parents[2] / "docs/context.md").read_text()
    example = page.split("```yaml\n")[1].split("```")[0]
    content = read_context(yaml.safe_load(example), "the example")
    assert len(content) == 6, "all but the empty list of keys"


def test_cloud_init_reads_what_was_written() -> None:
    context = ContextSpec(
        "web",
        (KEY,),
        "echo hello",
        (GuestUser("app", (KEY,), ("adm", "www-data"), True, "/bin/sh", "$6$x"),),
        ("nginx",),
        (GuestFile("/etc/a b: c", "tab\t\"quote\" 'q' {x}\n#\U0001f600\x07", "0600", "app:app"),),
        json.dumps({"runcmd": [["ls", "-l"], 'echo "a": b'], "timezone": "UTC", "swap": {"size": 1}}),
    )
    files = seed_files(context, "i", ())
    assert files["vendor-data"] == "#!/bin/sh\necho hello"
    told = yaml.safe_load(files["user-data"])
    assert told["users"] == [
        "default",
        {
            "name": "app",
            "shell": "/bin/sh",
            "ssh_authorized_keys": [KEY],
            "groups": "adm, www-data",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "passwd": "$6$x",
            "lock_passwd": False,
        },
    ]
    (file,) = told["write_files"]
    assert (file["path"], file["permissions"], file["owner"]) == ("/etc/a b: c", "0600", "app:app")
    assert file["content"] == context.files[0].content
    assert (told["packages"], told["timezone"], told["swap"]) == (["nginx"], "UTC", {"size": 1})
    assert told["runcmd"] == [["ls", "-l"], 'echo "a": b']
    cloud = yaml.safe_load(user_data(context))
    assert [one["path"] for one in cloud["write_files"]] == ["/etc/a b: c", "/var/lib/cloud/vdc-start"]
    assert cloud["runcmd"] == [["ls", "-l"], 'echo "a": b', ["/var/lib/cloud/vdc-start"]]


HOSTILE = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "more than 1 s of CPU",
    "{% for i in range(99999) %}aaaaaaaaaaaaaaaaaaaaa{% endfor %}": "grows beyond 64 KiB",
    "{{ 'a' * 10**10 }}": "more than 512 MiB of memory",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}": "calls itself without end",
    "{{ ''.__class__.__mro__ }}": "'__class__' of 'str' object is unsafe",
    "{{ '{0.__class__}'.format(values) }}": "'__class__' of 'dict' object is unsafe",
    "{{ secret.__globals__ }}": "'__globals__' of 'function' object is unsafe",
    "{% include '/etc/passwd' %}": "no loader",
    "{{ range(1000000) }}": "Range too big",
    "{{ values": "line 1: unexpected end of template",
    "{{ values|random }}": "No filter named 'random'",
    "{{ [1].append(2) }}": "'append' of 'list' object is unsafe",
    "{{ 1 // 0 }}": "division",
}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_template_that_does_not_end_or_reads_what_it_may_not_is_refused_at_once(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_context({"files": [{"path": "/x", "content": text}]}, "tenant acme")
    said = str(refused.value)
    assert said.startswith("The context is refused: files.0.content of tenant acme cannot be rendered: ")
    assert HOSTILE[text] in said
    assert "\n" not in said


def test_a_process_that_was_begun_and_not_needed_is_gone() -> None:
    with Renderer() as renderer:
        begun = renderer._process
        assert begun is not None
    assert begun.poll() is not None


def test_what_is_wrong_for_one_machine_alone_takes_nothing(site: Site) -> None:
    _set(site, {"start_script": "{{ addresses[1].address }}"}, tenant="acme")
    before = site.rows()
    with pytest.raises(Invalid, match=r"start_script of tenant acme cannot be rendered: .* no element 1"):
        _deploy(site, count=2)
    with pytest.raises(Invalid, match=r"packages\.0 of the machine cannot be rendered: 'nothing' is"):
        _deploy(site, {"packages": ["{{ nothing }}"]}, vnets=["blue", "green"])
    with pytest.raises(Invalid, match="'; rm -rf' is no name of a package"):
        _deploy(site, {"packages": ["{{ '; rm -rf' }}"]}, vnets=["blue", "green"])
    assert site.rows() == before
    assert len(_deploy(site, vnets=["blue", "green"])) == 1


BILLION = (
    "[" + ", ".join(["&a0 [x]", *(f"&a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]) + "]"
)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([], "input should be a valid dict"),
        ({"colour": "red"}, "colour: extra inputs"),
        ({"users": [{"name": "Root!"}]}, "'Root!' is no name of a login"),
        ({"users": [{"name": "a", "uid": 0}]}, "users.0.uid: extra"),
        ({"ssh_keys": ["hello"]}, "SSH key 'hello' is none"),
        ({"packages": ["a b"]}, "'a b' is no name of a package"),
        ({"files": [{"path": "etc/x", "content": ""}]}, "'etc/x' is no absolute path"),
        ({"files": [{"path": "/etc/../x", "content": ""}]}, "no absolute path"),
        ({"files": [{"path": "/x", "content": "", "permissions": "rw"}]}, "give octal digits"),
        ({"files": [{"path": "/x", "content": "", "owner": "a b"}]}, "write it like root:root"),
        ({"files": [{"path": "/x", "content": "y" * 70_000}]}, "larger than 64 KiB"),
        ({"cloud_init": {"hostname": "x"}}, "cloud_init has hostname. It may have: apt, bootcmd"),
        ({"cloud_init": {"runcmd": [float("nan")]}}, "no text, number, list or map"),
        ({"cloud_init": {"runcmd": [yaml.safe_load("2026-01-01")]}}, "no text, number, list or map"),
        ({"cloud_init": {"apt": yaml.safe_load(BILLION)}}, "more than 5000 parts"),
        ({"values": {"Bad-Name": 1}}, "values.Bad-Name"),
        ({"start_script": "\ue000x\ue001"}, "characters that mark secrets"),
    ],
)
def test_a_file_that_is_no_context_is_refused_with_what_is_wrong(content: Any, says: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_context(content, "tenant acme")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_secret_is_in_the_seed_and_nowhere_else(site: Site, tmp_path: Path) -> None:
    key = _secret(site, "db", WORD, "acme")
    assert stat.S_IMODE((tmp_path / "secrets.key").stat().st_mode) == 0o600
    line = "password={{ secret('db') }}\n"
    _set(site, {"files": [{"path": "/etc/db", "content": line, "permissions": "0600"}]}, tenant="acme")
    (context,) = _deploy(site, {"cloud_init": {"runcmd": [["x", "{{ secret('db') }}"]]}}, name="one")
    assert WORD not in str(site.rows()) + str(context)
    with read_session(site.url) as session:
        sealed = secrets.read_sealed(session, secrets.ids_in(context))
        shown = secrets.shown(session, context)
    assert shown.files[0].content == "password=<secret db>\n"
    told = secrets.revealed(context, sealed, key)
    assert told.files[0].content == f"password={WORD}\n"
    assert json.loads(told.cloud_init) == {"runcmd": [["x", WORD]]}
    with pytest.raises(DriverFailure, match="set with another one"):
        secrets.revealed(context, sealed, secrets.key(tmp_path / "other.key", make=True))
    with pytest.raises(DriverFailure, match="is gone"):
        secrets.revealed(context, {}, key)
    with pytest.raises(Unready, match="cannot be read"):
        secrets.key(tmp_path / "nowhere.key")

    _secret(site, "db", "another one", "acme")
    with read_session(site.url) as session:
        again = secrets.revealed(context, secrets.read_sealed(session, sealed.keys()), key)
    assert again.files[0].content == "password=another one\n"
    with (
        write_session(site.url) as session,
        pytest.raises(InvalidState, match=r"told \(one\): it can go when"),
    ):
        secrets.remove_secret(session, "db", "acme", actor=ACTOR)


def test_nobody_can_name_a_secret_of_others(site: Site) -> None:
    for tenant in ("", "bolt"):
        _secret(site, "db", WORD, tenant)
    with read_session(site.url) as session:
        theirs = list(secrets.listing(session, "bolt"))
        ids = site.rows()["secrets"]
    assert [row["name"] for row in theirs] == ["db"]
    stolen = next(part for part in str(ids).split("'") if len(part) == 36)
    for text in (
        "{{ secret('db') }}",
        "{{ secret('site/db') }}",
        f"{{{{ secret('{stolen}') }}}}",
        "{{ secret('d') ~ 'b' }}",
    ):
        with pytest.raises(Invalid, match=r"names a secret '.*' that its tenant has not"):
            _deploy(site, {"start_script": text})
    for text in ("{{ '\\ue000' }}", "{{ secret('a')[1:] }}"):
        with pytest.raises(Invalid, match="characters that mark secrets"):
            _deploy(site, {"start_script": text})
    _secret(site, "mine", WORD, "acme")
    for part in ({"ssh_keys": [KEY + " {{ secret('mine') }}"]}, {"packages": ["{{ secret('mine') }}"]}):
        with pytest.raises(Invalid, match="the machine is refused"):
            _deploy(site, part)
    _set(site, {"start_script": "{{ secret('db') }}"})
    assert len(_deploy(site)) == 1, "what the site says may name the site's"
    with write_session(site.url) as session:
        acme, bolt = (session.query(Tenant).filter_by(name=name).one().id for name in ("acme", "bolt"))
        template = session.query(Template).filter_by(name="web").one()
        template.tenant_id, template.context = bolt, {"start_script": "{{ secret('db') }}"}
        session.add(Share(object_kind="template", object_id=template.id, tenant_id=acme))
    with pytest.raises(Invalid, match="start_script of template web names a secret, and is another tenant's"):
        _deploy(site)


def test_a_machine_that_was_given_away_keeps_its_secret_until_its_tenant_is_gone(site: Site) -> None:
    key = _secret(site, "db", WORD, "acme")
    _deploy(site, {"start_script": "echo {{ secret('db') }}"}, name="one")
    with write_session(site.url) as session:
        vm = session.scalars(select(Vm).where(Vm.name == "one")).one()
        session.query(Operation).delete()
        vm.state = "stopped"
        session.flush()
        give(session, "one", "bolt", actor=ACTOR)
    with write_session(site.url) as session:
        context = specs.load(session.scalars(select(Vm.spec)).one()).context
        sealed = secrets.read_sealed(session, secrets.ids_in(context))
        assert secrets.revealed(context, sealed, key).start_script == f"echo {WORD}"
        secrets.forget_all(session, session.scalars(select(Tenant.id).where(Tenant.name == "acme")).one())
        assert specs.load(session.scalars(select(Vm.spec)).one()).context.start_script == "echo "


def test_the_commands(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VDC_DATABASE_URL", site.url)
    monkeypatch.setenv("VDC_HOME", str(tmp_path))

    def vdc(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = guarded(lambda: cli.main(list(arguments), prog_name="vdc", standalone_mode=False), arguments)
        seen = capsys.readouterr()
        return code, seen.out + seen.err

    monkeypatch.setattr("sys.stdin", io.StringIO(f"{WORD}\n"))
    assert vdc("secret", "set", "db", "--tenant", "acme", "--stdin") == (
        0,
        "Secret db is kept: name it as {{ secret('db') }}.\n",
    )
    file = tmp_path / "c.yaml"
    file.write_text("start_script: echo {{ secret('db') }} {{ name }}\n")
    assert vdc("context", "set", str(file), "--tenant", "acme") == (
        0,
        "The context of tenant acme: changed: start_script.\n",
    )
    assert vdc("context", "set", str(file), "--tenant", "acme")[1].endswith(": nothing changed.\n")
    assert json.loads(vdc("context", "show", "--tenant", "acme", "--json")[1]) == {
        "start_script": "echo {{ secret('db') }} {{ name }}"
    }
    code, plan = vdc(
        "vm", "deploy", "--template", "web", "--tenant", "acme", "--name", "x", "--plan", "--json"
    )
    assert code == 0
    (context,) = _deploy(site, name="one")
    assert "echo <secret db> one" in vdc("context", "show", "--vm", "one")[1]
    listed = json.loads(vdc("secret", "list", "--tenant", "acme", "--json")[1])
    assert [(row["name"], row["tenant"]) for row in listed] == [("db", "acme")]
    for arguments, code, says in (
        (("context", "show"), 3, "--site, --tenant NAME or --template NAME"),
        (("context", "set", str(tmp_path / "none"), "--site"), 3, "cannot be read"),
        (("context", "show", "--template", "none"), 3, "no template 'none'"),
        (("secret", "remove", "db", "--tenant", "acme"), 3, "is in what machines were told (one)"),
        (("secret", "remove", "other", "--tenant", "acme"), 3, "no secret 'other'. Known: db."),
        (
            ("vm", "deploy", "--template", "web", "--tenant", "acme", "--context", "/none"),
            3,
            "/none cannot be read",
        ),
    ):
        seen = vdc(*arguments)
        assert seen[0] == code
        assert says in seen[1]
    said = plan + vdc("audit", "--json")[1] + vdc("operation", "list", "--json")[1] + str(context)
    assert WORD not in said + str(site.rows())


def test_a_thousand_machines_are_rendered_at_once(site: Site) -> None:
    with Renderer() as renderer:
        begun = time.process_time()
        facts = [{"name": f"m{n}"} for n in range(1000)]
        done = renderer.render({"a": "{{ name }}"}, facts)
    assert [one["a"] for one in done] == [fact["name"] for fact in facts]
    assert time.process_time() - begun < 1
